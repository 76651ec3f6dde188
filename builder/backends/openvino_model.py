"""Serves ``model.onnx`` beside it on OpenVINO's CPU plugin; copied into a version as Triton's ``model.py``.

The tensors' names, types and shapes come from the model configuration, and so do these string parameters:

- ``inference_threads``: the cores of one instance; by default the cores that it may use, shared by the instances.
- ``inference_precision``: ``f32``, the default, or ``bf16``, which is f32 on a CPU without it.

The graph is compiled for one image, never for a batch: on a CPU an image costs as much in a batch as alone, a fixed
shape is faster than a free one, and no batch size is then slower when it comes for the first time. Images run side by
side on streams that share the threads evenly, on fewer and wider ones where there are few images.

A call returns as soon as its images have a place, and each request is answered when its last image is done. So no
stream waits for the next call; and Triton's batcher finds an instance that waits for it, without which it may let a
request lie for up to 500 ms where the configuration has a queue policy. Triton's ``compute_infer`` is then how long
calls waited for a place, not how long images took.

Legend: B images of one request; one image is a B of 1.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import triton_python_backend_utils as pb_utils

Tensors = dict[str, npt.NDArray[Any]]
"""Inputs, outputs or both by name, each [B, ...]."""


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

        graph = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        compiled = self._compiled(graph, config, _inference_threads(config))
        for runners in compiled.values():
            images = [self._zeros() for _ in runners]
            for image, runner in zip(images, runners, strict=True):
                _start(image, runner)
            for runner in runners:
                runner.wait()
        self._running = _Count()
        self._streams = {streams: _Streams(runners, self._running) for streams, runners in compiled.items()}
        # A batch and one image for each stream: enough that none runs dry, few enough that the queue is Triton's.
        self._places = max_batch_size + max(compiled)

    def execute(self, requests: list[Any]) -> None:
        """Take the requests of one call; each is answered through its own sender."""
        # Triton has refused what differs from the configuration.
        batches = [_Batch(request, self._inputs, self._rows) for request in requests]
        images = sum(batch.left for batch in batches)
        self._running.wait_until_at_most(max(0, self._places - images))
        streams = max(each for each in self._streams if each <= self._running.value + images)
        for batch in batches:
            self._streams[streams].add(batch)

    def finalize(self) -> None:
        """Answer what is still running."""
        self._running.wait_until_at_most(0)

    def _compiled(self, graph: Path, config: dict[str, Any], threads: int) -> dict[int, list[ov.InferRequest]]:
        """What runs an image each, by the number of streams that share the threads."""
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
            "INFERENCE_PRECISION_HINT": _inference_precision(core, config),
        }
        runners = {}
        for streams in _widths(threads, config["max_batch_size"]):
            compiled = core.compile_model(model, "CPU", {**settings, "NUM_STREAMS": streams})
            # One more than there are streams: each finds its next image waiting.
            runners[streams] = [compiled.create_infer_request() for _ in range(streams + 1)]
        return runners

    def _check_outputs(self, model: ov.Model) -> None:
        for name, (shape, dtype) in self._outputs.items():
            output = model.output(name)
            given_dtype, given_shape = output.element_type.to_dtype(), output.partial_shape
            if given_dtype != dtype or not given_shape.compatible(ov.PartialShape([1, *shape])):
                raise pb_utils.TritonModelException(
                    f"output {name}: the configuration says {dtype} {[1, *shape]}, model.onnx gives "
                    f"{given_dtype} {given_shape}; build this version again"
                )

    def _rows(self, images: int) -> Tensors:
        """Room for the outputs of so many images."""
        return {name: np.empty((images, *shape), dtype) for name, (shape, dtype) in self._outputs.items()}

    def _zeros(self) -> Tensors:
        """A black image, and room for its outputs."""
        return {name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in self._inputs.items()} | self._rows(1)


class _Batch:
    """One request of Triton."""

    def __init__(self, request: Any, input_names: Iterable[str], rows: Callable[[int], Tensors]) -> None:
        # as_numpy() is a view of Triton's memory, which stays as long as the request.
        self._request = request
        self._inputs = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in input_names}
        self._size = len(next(iter(self._inputs.values())))
        self._outputs = rows(self._size)
        self.left = self._size
        """Images that are not done."""
        self.error: str | None = None

    def images(self) -> list[Tensors]:
        """Inputs and outputs of each image: views, so what is written to them is in the response."""
        tensors = self._inputs | self._outputs
        return [{name: tensor_B[row : row + 1] for name, tensor_B in tensors.items()} for row in range(self._size)]

    def send(self) -> None:
        """Answer with what came out, or why nothing did."""
        if self.error is None:
            tensors = [pb_utils.Tensor(name, rows_B) for name, rows_B in self._outputs.items()]
            response = pb_utils.InferenceResponse(tensors)
        else:
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError(self.error))
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._request.get_response_sender().send(response, flags=final)


class _Count:
    """How many images are running or wait for a runner."""

    def __init__(self) -> None:
        self.value = 0
        self._changed = threading.Condition()

    def add(self, images: int) -> None:
        """Count images in, or out where negative."""
        with self._changed:
            self.value += images
            self._changed.notify_all()

    def wait_until_at_most(self, images: int) -> None:
        """Wait until no more than so many are left."""
        with self._changed:
            self._changed.wait_for(lambda: self.value <= images)


class _Streams:
    """Runs image after image, and answers a request when its last image is done."""

    def __init__(self, runners: Sequence[ov.InferRequest], running: _Count) -> None:
        self._running = running
        self._lock = threading.Lock()
        self._free: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
        for runner in runners:
            self._free.put(runner)
        self._threads = ThreadPoolExecutor(len(runners))

    def add(self, batch: _Batch) -> None:
        """Run the images as runners get free."""
        self._running.add(batch.left)
        for image in batch.images():
            self._threads.submit(self._run, batch, image)

    def _run(self, batch: _Batch, image: Tensors) -> None:
        runner = self._free.get()
        error = None
        try:
            _start(image, runner)
            runner.wait()
        except Exception as e:  # whatever it is, the client must hear of it
            error = str(e)
        self._free.put(runner)
        with self._lock:
            batch.error = batch.error or error
            batch.left -= 1
            done = batch.left == 0
        if done:
            batch.send()
        self._running.add(-1)


def _start(image: Tensors, runner: ov.InferRequest) -> None:
    """Start one image; OpenVINO does not keep its arrays alive, so whoever calls must, until it is done."""
    for name, tensor_1 in image.items():
        runner.set_tensor(name, ov.Tensor(tensor_1, shared_memory=True))
    runner.start_async()


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


def _inference_precision(core: ov.Core, config: dict[str, Any]) -> str:
    """OpenVINO's name of the arithmetic; left to itself, it would choose bf16 on a CPU with AMX."""
    asked = _parameter(config, "inference_precision", "f32")
    if asked not in ("f32", "bf16"):
        raise pb_utils.TritonModelException(f"parameter inference_precision: expected f32 or bf16, got {asked!r}")
    if asked == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pb_utils.Logger.log_info(f"{config['name']}: this CPU has no bf16, computing in f32")
        return "f32"
    return asked


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _inference_threads(config: dict[str, Any]) -> int:
    """The threads of one instance: the parameter, else the cores this process may use, shared by all instances."""
    instances = sum(group["count"] for group in config["instance_group"])
    text = _parameter(config, "inference_threads", str(max(1, _cores() // instances)))
    if not text.isdecimal() or int(text) < 1:
        raise pb_utils.TritonModelException(f"parameter inference_threads: expected 1 or more, got {text!r}")
    return int(text)
