"""What finds objects on images for an evaluation: a graph in this process, or a model that a server serves.

Each reads, letterboxes and reads back by the client's own code. Several images are under way at a time, so that one is
decoded while another is computed, and never more than a few, so that memory stays flat.

Legend: H height, W width, N rows, A anchors, C classes, X = 4 + C, 6 = x1 y1 x2 y2 confidence class.
"""

from __future__ import annotations

import enum
import functools
import os
import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from builder.accuracy import LEAST_CONFIDENCE, Detect, ImageDetections
from builder.coco import MAX_DETECTIONS
from builder.errors import ExportError
from builder.runtimes import openvino_core
from clients.contract import INPUT, OUTPUT
from clients.detector import Detector
from clients.errors import ImageError, one_line
from clients.images import Pixels, load_decoders, read_pixels
from clients.letterbox import letterbox

VALIDATION_IOU = 0.7
"""Suppression threshold of Ultralytics' validator."""
SERVED_REQUESTS = 4
"""Requests under way at a server: enough to overlap, few enough to wait for one another less than a queue allows."""
WAITING_PER_WORKER = 4

Infer: TypeAlias = Callable[[NDArray[Any]], NDArray[np.float32]]
"""From one letterboxed image to its output, without the batch; several threads may call it at once."""


class Runtime(enum.StrEnum):
    """What computes a graph in this process, on the CPU and in FP32."""

    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GraphDetector:
    """A graph in this process; a ``Detect``."""

    size_hw: tuple[int, int]
    """Height and width of its input in pixels."""
    raw: bool
    """Ultralytics' own contract: FP32 [3, H, W] in; [X, A] or, finished, [N, 6] out. Otherwise the served one."""
    infer: Infer
    workers: int
    """Images under way at a time."""

    def __call__(self, paths: Sequence[Path]) -> Iterator[ImageDetections]:
        """What is on each image; one that cannot be read says why."""
        return _in_order(functools.partial(_detect, self._rows), paths, self.workers)

    def _rows(self, pixels: Pixels) -> NDArray[np.float32]:
        input_HWC, box = letterbox(pixels.array_HWC, self.size_hw, order=pixels.order)
        if self.raw:
            rows_N6 = _suppressed(self.infer(input_HWC.transpose(2, 0, 1).astype(np.float32) / 255))
        else:
            rows_N6 = self.infer(input_HWC)
        rows_N6 = rows_N6[rows_N6[:, 4] >= np.float32(LEAST_CONFIDENCE)]
        return np.concatenate([box.boxes_to_image(rows_N6[:, :4]), rows_N6[:, 4:]], axis=1)


def graph_detector(path: Path, runtime: Runtime = Runtime.OPENVINO) -> GraphDetector:
    """The graph of a model.onnx, with either head, ready to run.

    A raw head is read as Ultralytics' validator reads it: several classes a box, suppression at IoU 0.7.

    Raises:
        ExportError: it is no such graph, or does not run.
    """
    load_decoders()
    try:
        size_hw, raw, batch = _interface(path)
        load = {Runtime.OPENVINO: _openvino, Runtime.ONNXRUNTIME: _onnxruntime}[runtime]
        infer, streams = load(path, batch, (3, *size_hw) if raw else (*size_hw, 3))
        infer(np.zeros((3, *size_hw), np.float32) if raw else np.zeros((*size_hw, 3), np.uint8))
    except ExportError:
        raise
    except Exception as e:  # each runtime has its own exceptions
        raise ExportError(f"{path} does not run in {runtime}: {one_line(e)[:300]}") from e
    return GraphDetector(size_hw=size_hw, raw=raw, infer=infer, workers=2 * streams)


def served_detector(detector: Detector, requests: int = SERVED_REQUESTS) -> Detect:
    """A model on a server, with ``requests`` under way at a time; the client's errors come as they are."""

    def rows(pixels: Pixels) -> NDArray[np.float32]:
        found = detector.detect(pixels, LEAST_CONFIDENCE)
        return np.column_stack([found.xyxy, found.confidence, found.class_id.astype(np.float32)])

    return lambda paths: _in_order(functools.partial(_detect, rows), paths, requests)


def _detect(rows: Callable[[Pixels], NDArray[np.float32]], path: Path) -> ImageDetections:
    try:
        pixels = read_pixels(path)
    except ImageError as e:
        return ImageDetections(path=path, image_hw=(0, 0), rows_N6=np.zeros((0, 6), np.float32), problem=str(e))
    return ImageDetections(path=path, image_hw=(pixels.height, pixels.width), rows_N6=rows(pixels))


def _in_order(
    work: Callable[[Path], ImageDetections], paths: Sequence[Path], workers: int
) -> Iterator[ImageDetections]:
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[ImageDetections]] = deque()
        try:
            for path in paths:
                waiting.append(pool.submit(work, path))
                if len(waiting) > WAITING_PER_WORKER * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


def _suppressed(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, 6] in input pixels from ``output0`` [X, A] or [N, 6], with the settings of Ultralytics' validator."""
    import torch
    from ultralytics.utils.nms import non_max_suppression

    rows: torch.Tensor = non_max_suppression(
        torch.from_numpy(output)[None],
        conf_thres=LEAST_CONFIDENCE,
        iou_thres=VALIDATION_IOU,
        multi_label=True,
        max_det=MAX_DETECTIONS,
    )[0]
    rows_N6: NDArray[np.float32] = rows.numpy()
    return rows_N6


def _interface(path: Path) -> tuple[tuple[int, int], bool, int]:
    """Height and width of the input, whether the head is raw, and the size of a batch: 1 where it is free."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (graph.input, graph.output))
    raw = outputs == ["output0"]
    shape = [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] if graph.input else []
    sides = shape[2:] if raw else shape[1:3]
    if inputs != [INPUT] or outputs not in ([OUTPUT], ["output0"]) or len(shape) != 4 or not all(sides):
        raise ExportError(
            f"{path}: expected a graph that python -m builder build wrote, {INPUT} [B, H, W, 3] in and {OUTPUT} out or "
            f"{INPUT} [B, 3, H, W] in and output0 out; it has {', '.join(inputs)} {shape} and {', '.join(outputs)}."
        )
    return (sides[0], sides[1]), raw, max(shape[0], 1)


def _openvino(path: Path, batch: int, image_shape: tuple[int, ...]) -> tuple[Infer, int]:
    core = openvino_core()
    model = core.read_model(path)
    # A free batch makes every layer's shape a question of each run.
    model.reshape({INPUT: [batch, *image_shape]})
    # Left to itself, OpenVINO computes in bf16 on a CPU with AMX. One stream a core is the most images per second.
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"})
    streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for _ in range(2 * streams):
        free.put(compiled.create_infer_request())

    def infer(image: NDArray[Any]) -> NDArray[np.float32]:
        request = free.get()
        try:
            # A copy: the request's next run overwrites its output.
            return np.array(request.infer([_batched(image, batch)])[0][0])
        finally:
            free.put(request)

    return infer, streams


def _onnxruntime(path: Path, batch: int, _image_shape: tuple[int, ...]) -> tuple[Infer, int]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def infer(image: NDArray[Any]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = session.run(None, {INPUT: _batched(image, batch)})[0][0]
        return output

    return infer, len(os.sched_getaffinity(0))


def _batched(image: NDArray[Any], batch: int) -> NDArray[Any]:
    return image[None] if batch == 1 else np.repeat(image[None], batch, axis=0)
