"""Serves ``model.onnx`` on OpenVINO as Ultralytics exports it, sizes free: copied as Triton's ``model.py``.

It stands for Triton's onnxruntime backend, which a server without a container lacks; OpenVINO is the quicker of the two
on a CPU. The tensors' names come from the configuration.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the graph."""
        config = json.loads(args["model_config"])
        self._input, self._output = config["input"][0]["name"], config["output"][0]["name"]
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
            "INFERENCE_PRECISION_HINT": "f32",
        }
        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._request = ov.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself: their sizes differ."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        images_BCHW = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy()
        self._request.infer({self._input: ov.Tensor(images_BCHW, shared_memory=True)}, share_outputs=True)
        # pb_utils.Tensor copies; the next request overwrites the output.
        output: Any = self._request.get_tensor(self._output).data
        return pb_utils.InferenceResponse([pb_utils.Tensor(self._output, np.ascontiguousarray(output))])
