"""Serves ``model.onnx`` as Ultralytics exports it, sizes free: copied as Triton's ``model.py``.

It stands for Triton's onnxruntime backend, which a server without a container lacks. The parameter ``runtime`` is
``onnxruntime``, the library of that backend, or ``openvino``. The tensors' names come from the configuration.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

Infer = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph with all cores."""
        config = json.loads(args["model_config"])
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        load = {"onnxruntime": _onnxruntime, "openvino": _openvino}[config["parameters"]["runtime"]["string_value"]]
        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._infer = load(graph, self._input, len(os.sched_getaffinity(0)))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself: their sizes differ."""
        responses = []
        for request in requests:
            images_BCHW = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy()
            # pb_utils.Tensor copies, so the next request may overwrite the output.
            tensor = pb_utils.Tensor(self._output, self._infer(images_BCHW))
            responses.append(pb_utils.InferenceResponse([tensor]))
        return responses


def _onnxruntime(graph: Path, input_name: str, threads: int) -> Infer:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def infer(images_BCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        output: npt.NDArray[np.float32] = session.run(None, {input_name: images_BCHW})[0]
        return output

    return infer


def _openvino(graph: Path, input_name: str, threads: int) -> Infer:
    import openvino as ov

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def infer(images_BCHW: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        outputs = request.infer({input_name: ov.Tensor(images_BCHW, shared_memory=True)}, share_outputs=True)
        output: npt.NDArray[np.float32] = outputs[0]
        return output

    return infer
