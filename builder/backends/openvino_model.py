"""Serves ``model.onnx`` beside it on OpenVINO's CPU plugin; copied into a version as Triton's ``model.py``.

The tensors' names, types and shapes come from the model configuration, and so do these string parameters:

- ``inference_threads``: the cores of one instance; by default the cores that it may use, shared by the instances.
- ``inference_precision``: OpenVINO's name of the arithmetic; ``f32`` by default.

The graph is compiled for one image, never for a batch: on a CPU an image costs as much in a batch as alone, a fixed
shape is faster than a free one, and no batch size is then slower when it comes for the first time. A lone image gets
all threads; the images of a batch run side by side, each on its own share of the threads.

Legend: N images of one call, B images of one request, leading 1 = one image.
"""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import triton_python_backend_utils as pb_utils

Image = dict[str, npt.NDArray[Any]]
"""The inputs of one image by name, each with a leading 1."""


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the graph and run it once everywhere it will run, so that the first request finds it warm."""
        config = json.loads(args["model_config"])
        max_batch_size = config["max_batch_size"]
        if max_batch_size < 1:
            raise pb_utils.TritonModelException(f"max_batch_size: expected at least 1, got {max_batch_size}")
        self._inputs = {tensor["name"]: _shape_and_dtype(tensor) for tensor in config["input"]}
        # With a free size, one image that the graph cannot compute breaks OpenVINO's model for all that follow.
        for name, (shape, _) in self._inputs.items():
            if -1 in shape:
                raise pb_utils.TritonModelException(f"input {name}: expected a fixed size, got {list(shape)}")
        self._outputs = {tensor["name"]: _shape_and_dtype(tensor) for tensor in config["output"]}

        model = self._read_model(Path(args["model_repository"]) / args["model_version"] / "model.onnx")
        threads = _inference_threads(config)
        self._streams = min(threads, max_batch_size)
        one_stream = _compiled(model, config, threads, streams=1)
        self._alone = one_stream.create_infer_request()
        self._shared = _compiled(model, config, threads, streams=self._streams) if self._streams > 1 else one_stream
        self._reserve(max_batch_size)
        # Triton's own warmup, where the configuration has one, comes by the same way after this.
        if not config["model_warmup"]:
            zeros = {name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in self._inputs.items()}
            self._infer([zeros])
            self._infer([zeros] * max_batch_size)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one call, one response each, in their order."""
        # Triton has refused what differs from the configuration; as_numpy() is a view of its memory.
        batches = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            for request in requests
        ]
        sizes = [len(next(iter(batch.values()))) for batch in batches]
        self._infer(
            [
                {name: tensor_B[row : row + 1] for name, tensor_B in batch.items()}
                for batch, size in zip(batches, sizes, strict=True)
                for row in range(size)
            ]
        )
        ends = list(itertools.accumulate(sizes))
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, results_N[end - size : end]) for name, results_N in self._results.items()]
            )
            for size, end in zip(sizes, ends, strict=True)
        ]

    def _read_model(self, graph: Path) -> ov.Model:
        """The graph for one image; its outputs must be those of the configuration."""
        model = ov.Core().read_model(graph)
        model.reshape({name: ov.PartialShape([1, *shape]) for name, (shape, _) in self._inputs.items()})
        for name, (shape, dtype) in self._outputs.items():
            output = model.output(name)
            if output.element_type.to_dtype() != dtype or not output.partial_shape.compatible(
                ov.PartialShape([1, *shape])
            ):
                raise pb_utils.TritonModelException(
                    f"output {name}: the configuration says {dtype} {[1, *shape]}, model.onnx gives "
                    f"{output.element_type.to_dtype()} {output.partial_shape}; build this version again"
                )
        return model

    def _reserve(self, images: int) -> None:
        """Have room for the results of so many images, and for each row of it a request that writes there."""
        self._results = {name: np.empty((images, *shape), dtype) for name, (shape, dtype) in self._outputs.items()}
        self._side_by_side = [self._shared.create_infer_request() for _ in range(images)]

    def _infer(self, images: list[Image]) -> None:
        """Write the results of each image to its row."""
        if len(images) > len(self._side_by_side):
            self._reserve(len(images))
        # One image more than the streams can share evenly would run on one stream while the others idle.
        lone = len(images) == 1 or len(images) % self._streams == 1
        together = len(images) - lone
        for row in range(together):
            self._start(self._side_by_side[row], images[row], row)
        for request in self._side_by_side[:together]:
            request.wait()
        if lone:
            self._start(self._alone, images[together], together)
            self._alone.wait()

    def _start(self, request: ov.InferRequest, image: Image, row: int) -> None:
        for name, tensor_1 in image.items():
            request.set_tensor(name, ov.Tensor(tensor_1, shared_memory=True))
        for name, results_N in self._results.items():
            request.set_tensor(name, ov.Tensor(results_N[row : row + 1], shared_memory=True))
        request.start_async()


def _compiled(model: ov.Model, config: dict[str, Any], threads: int, *, streams: int) -> ov.CompiledModel:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
        # OpenVINO pins from the first core on: two processes with fewer threads than cores would share one core.
        "ENABLE_CPU_PINNING": threads >= _cores(),
        # On a CPU with AMX, OpenVINO would choose bf16 by itself.
        "INFERENCE_PRECISION_HINT": _parameter(config, "inference_precision", "f32"),
    }
    return ov.Core().compile_model(model, "CPU", settings)


def _shape_and_dtype(tensor: dict[str, Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape without the batch dimension, and numpy's type, of one tensor of the configuration."""
    return tuple(int(size) for size in tensor["dims"]), np.dtype(pb_utils.triton_string_to_numpy(tensor["data_type"]))


def _parameter(config: dict[str, Any], key: str, default: str) -> str:
    return str(config.get("parameters", {}).get(key, {}).get("string_value", default))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _inference_threads(config: dict[str, Any]) -> int:
    """The threads of one instance: the parameter, else the cores this process may use, shared by all instances."""
    instances = sum(group["count"] for group in config["instance_group"])
    text = _parameter(config, "inference_threads", str(max(1, _cores() // instances)))
    if not text.isdecimal() or int(text) < 1:
        raise pb_utils.TritonModelException(f"parameter inference_threads: expected 1 or more, got {text!r}")
    return int(text)
