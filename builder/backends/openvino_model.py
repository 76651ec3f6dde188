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

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of the model, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compile the graph and run it once everywhere it will run, so that the first request finds it warm."""
        config = json.loads(args["model_config"])
        if config["max_batch_size"] < 1:
            raise pb_utils.TritonModelException("config.pbtxt: max_batch_size is 0, expected at least 1")
        self._inputs = {tensor["name"]: _shape_and_dtype(tensor) for tensor in config["input"]}
        self._outputs = {tensor["name"]: _shape_and_dtype(tensor) for tensor in config["output"]}

        threads = _inference_threads(config)
        self._streams = min(threads, config["max_batch_size"])
        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._alone = self._compiled(graph, config, threads=threads, streams=1).create_infer_request()
        self._shared = self._compiled(graph, config, threads=threads, streams=self._streams)
        self._side_by_side: list[Any] = []
        self._reserve(config["max_batch_size"])

        zeros = {name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in self._inputs.items()}
        self._infer([zeros])
        self._infer([zeros] * config["max_batch_size"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one call: one response for each, in their order; a bad request fails alone."""
        inputs_or_errors = [self._read(request) for request in requests]
        images = [
            {name: tensor_B[row : row + 1] for name, tensor_B in tensors.items()}
            for tensors in inputs_or_errors
            if isinstance(tensors, dict)
            for row in range(_batch_size(tensors))
        ]
        failures = self._infer(images)

        responses, first = [], 0
        for tensors in inputs_or_errors:
            if not isinstance(tensors, dict):
                responses.append(pb_utils.InferenceResponse(error=tensors))
                continue
            last = first + _batch_size(tensors)
            failed = [failures[row] for row in range(first, last) if row in failures]
            if failed:
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(failed[0])))
            else:
                rows = [pb_utils.Tensor(name, rows_N[first:last]) for name, rows_N in self._rows.items()]
                responses.append(pb_utils.InferenceResponse(rows))
            first = last
        return responses

    def _compiled(self, graph: Path, config: dict[str, Any], *, threads: int, streams: int) -> ov.CompiledModel:
        core = ov.Core()
        model = core.read_model(graph)
        model.reshape({name: [1, *shape] for name, (shape, _) in self._inputs.items()})
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": threads,
                # On a CPU with AMX, OpenVINO would choose bf16 by itself.
                "INFERENCE_PRECISION_HINT": _parameter(config, "inference_precision", "f32"),
            },
        )
        for name, (shape, dtype) in self._outputs.items():
            output = compiled.output(name)
            if list(output.partial_shape.to_shape()) != [1, *shape] or output.element_type.to_dtype() != dtype:
                raise pb_utils.TritonModelException(
                    f"output {name}: config.pbtxt says {dtype} {[1, *shape]}, "
                    f"model.onnx gives {output.element_type} {output.partial_shape}; build the version again"
                )
        return compiled

    def _reserve(self, images: int) -> None:
        """Have room for the results of so many images: one row of each output, and a request that writes there."""
        self._rows = {name: np.empty((images, *shape), dtype) for name, (shape, dtype) in self._outputs.items()}
        self._side_by_side = [self._shared.create_infer_request() for _ in range(images)]
        for row, request in enumerate(self._side_by_side):
            self._write_to(request, row)

    def _write_to(self, request: Any, row: int) -> None:
        for name, rows_N in self._rows.items():
            request.set_tensor(name, ov.Tensor(rows_N[row : row + 1], shared_memory=True))

    def _read(self, request: Any) -> dict[str, npt.NDArray[Any]] | Any:
        """The tensors of one request as views of Triton's memory, or a TritonError where they break the contract."""
        tensors = {}
        for name, (shape, dtype) in self._inputs.items():
            tensor_B = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            if tensor_B.shape[1:] != shape or tensor_B.dtype != dtype:
                return pb_utils.TritonError(
                    f"input {name}: expected {np.dtype(dtype).name} [B, {', '.join(map(str, shape))}], "
                    f"got {tensor_B.dtype.name} {list(tensor_B.shape)}"
                )
            tensors[name] = tensor_B
        sizes = {name: len(tensor_B) for name, tensor_B in tensors.items()}
        if len(set(sizes.values())) > 1:
            return pb_utils.TritonError(f"expected one batch size for all inputs, got {sizes}")
        return tensors

    def _infer(self, images: list[dict[str, npt.NDArray[Any]]]) -> dict[int, str]:
        """Run every image into its row of the outputs; returns the message of each row that failed."""
        if len(images) > len(self._side_by_side):
            self._reserve(len(images))
        # One image more than the streams can share out evenly would run on one stream while the others idle.
        alone = len(images) % self._streams == 1 or len(images) == 1
        failures = {}
        together = len(images) - alone
        started = []
        for row in range(together):
            request = self._side_by_side[row]
            for name, tensor_1 in images[row].items():
                request.set_tensor(name, ov.Tensor(tensor_1, shared_memory=True))
            request.start_async()
            started.append(request)
        for row, request in enumerate(started):
            try:
                request.wait()
            except RuntimeError as error:
                failures[row] = str(error)
        if alone:
            self._write_to(self._alone, together)
            for name, tensor_1 in images[together].items():
                self._alone.set_tensor(name, ov.Tensor(tensor_1, shared_memory=True))
            try:
                self._alone.infer()
            except RuntimeError as error:
                failures[together] = str(error)
        return failures


def _shape_and_dtype(tensor: dict[str, Any]) -> tuple[tuple[int, ...], Any]:
    """The shape without the batch dimension, and numpy's type, of one tensor of the configuration."""
    return tuple(int(size) for size in tensor["dims"]), np.dtype(pb_utils.triton_string_to_numpy(tensor["data_type"]))


def _batch_size(tensors: dict[str, npt.NDArray[Any]]) -> int:
    return len(next(iter(tensors.values())))


def _parameter(config: dict[str, Any], key: str, default: str) -> str:
    return str(config.get("parameters", {}).get(key, {}).get("string_value", default))


def _inference_threads(config: dict[str, Any]) -> int:
    """The threads of one instance: the parameter, else the cores this process may use, shared by all instances."""
    instances = sum(group.get("count", 1) for group in config.get("instance_group", [])) or 1
    cores = len(os.sched_getaffinity(0))
    text = _parameter(config, "inference_threads", str(max(1, cores // instances)))
    if not text.isdecimal() or int(text) < 1:
        raise pb_utils.TritonModelException(
            f'parameter inference_threads: expected a whole number of at least 1, got "{text}"'
        )
    return int(text)
