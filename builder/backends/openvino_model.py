"""Serves ``model.onnx`` beside it on OpenVINO's CPU plugin; copied into a version as Triton's ``model.py``.

The tensors' names, types and shapes come from the model configuration, and so do these string parameters:

- ``inference_threads``: the cores of one instance; by default the cores that it may use, shared by the instances.
- ``inference_precision``: OpenVINO's name of the arithmetic; ``f32`` by default.

The graph is compiled for one image, never for a batch: on a CPU an image costs as much in a batch as alone, a fixed
shape is faster than a free one, and no batch size is then slower when it comes for the first time. The images of a
batch run side by side, as many at a time as keep all threads busy: of seven images on four threads, four run on one
thread each, then two on two threads each, then the last on all four.

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

        self._results = self._rows(max_batch_size)
        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._requests = self._compiled(graph, config, _inference_threads(config))
        zeros = {name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in self._inputs.items()}
        for streams in self._requests:
            self._infer([zeros] * streams)

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

    def _compiled(self, graph: Path, config: dict[str, Any], threads: int) -> dict[int, list[ov.InferRequest]]:
        """The requests that run side by side, by the number of streams that share the threads."""
        # One Core for all: when the second of two is gone, the next signal may kill the process (OpenVINO 2026.4).
        core = ov.Core()
        model = core.read_model(graph)
        model.reshape({name: ov.PartialShape([1, *shape]) for name, (shape, _) in self._inputs.items()})
        self._check_outputs(model)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # OpenVINO pins from the first core on: two processes with fewer threads than cores would share one core.
            "ENABLE_CPU_PINNING": threads >= _cores(),
            # On a CPU with AMX, OpenVINO would choose bf16 by itself.
            "INFERENCE_PRECISION_HINT": _parameter(config, "inference_precision", "f32"),
        }
        requests = {}
        for streams in _widths(threads, config["max_batch_size"]):
            compiled = core.compile_model(model, "CPU", {**settings, "NUM_STREAMS": streams})
            rounds = config["max_batch_size"] // streams
            requests[streams] = [compiled.create_infer_request() for _ in range(rounds * streams)]
        return requests

    def _check_outputs(self, model: ov.Model) -> None:
        for name, (shape, dtype) in self._outputs.items():
            output = model.output(name)
            given_dtype, given_shape = output.element_type.to_dtype(), output.partial_shape
            if given_dtype != dtype or not given_shape.compatible(ov.PartialShape([1, *shape])):
                raise pb_utils.TritonModelException(
                    f"output {name}: the configuration says {dtype} {[1, *shape]}, model.onnx gives "
                    f"{given_dtype} {given_shape}; build this version again"
                )

    def _rows(self, images: int) -> dict[str, npt.NDArray[Any]]:
        """Room for the outputs of so many images."""
        return {name: np.empty((images, *shape), dtype) for name, (shape, dtype) in self._outputs.items()}

    def _infer(self, images: list[Image]) -> None:
        """Write the results of each image to its row."""
        if len(images) > len(next(iter(self._results.values()))):
            self._results = self._rows(len(images))
        first = 0
        while first < len(images):
            left = len(images) - first
            streams = max(width for width in self._requests if width <= left)
            started = self._requests[streams][: left // streams * streams]
            for row, request in enumerate(started, first):
                for name, tensor_1 in images[row].items():
                    request.set_tensor(name, ov.Tensor(tensor_1, shared_memory=True))
                for name, results_N in self._results.items():
                    request.set_tensor(name, ov.Tensor(results_N[row : row + 1], shared_memory=True))
                request.start_async()
            for request in started:
                request.wait()
            first += len(started)


def _widths(threads: int, max_batch_size: int) -> list[int]:
    """How many images may run side by side: the powers of two that share the threads evenly."""
    widths = [1]
    while threads % (2 * widths[-1]) == 0 and 2 * widths[-1] <= max_batch_size:
        widths.append(2 * widths[-1])
    return widths


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
