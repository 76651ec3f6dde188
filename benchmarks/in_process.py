"""The graph alone: OpenVINO in this process, arranged in whatever way is quickest with the served model's threads.

Legend: P pictures, N images of one call, H height, W width, C three channels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.closed_loop import Call, measure
from benchmarks.figures import Window
from benchmarks.served_model import ServedModel
from clients.contract import INPUT, OUTPUT


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrangement:
    """One way to have the graph answer several callers."""

    description: str
    callers: tuple[Call, ...]
    images_per_call: int = 1

    def measure(self, settle_s: float, duration_s: float) -> Window:
        """What it gets done."""
        return measure(self.callers, settle_s=settle_s, duration_s=duration_s, images_per_call=self.images_per_call)


def answers(model: ServedModel, pictures_PHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """FP32 [P, N, 6]: what the graph answers to each picture alone."""
    request = _compiled(model, 1, 1, "LATENCY").create_infer_request()
    return np.concatenate([request.infer([picture_HWC[None]])[0] for picture_HWC in pictures_PHWC])


def arrangements(model: ServedModel, pictures_PHWC: NDArray[np.uint8], concurrency: int) -> list[Arrangement]:
    """The ways that are worth measuring: which is quickest depends on the graph and the machine."""
    threads = model.threads
    if concurrency == 1:
        return [
            Arrangement(
                description=f"one image on {threads} thread(s)",
                callers=(_caller(_compiled(model, 1, 1, "LATENCY"), pictures_PHWC),),
            )
        ]
    ways = []
    for hint, streams in (("LATENCY", 1), ("LATENCY", min(threads, concurrency)), ("THROUGHPUT", None)):
        compiled = _compiled(model, 1, streams, hint)
        on = f"{compiled.get_property('NUM_STREAMS')} stream(s) of {threads} thread(s), hint {hint}"
        callers = tuple(_caller(compiled, pictures_PHWC) for _ in range(concurrency))
        ways.append(Arrangement(description=f"{concurrency} callers share {on}", callers=callers))
    batches_PNHWC = np.stack(
        [np.take(pictures_PHWC, range(p, p + concurrency), axis=0, mode="wrap") for p in range(len(pictures_PHWC))]
    )
    ways.append(
        Arrangement(
            description=f"one caller with batches of {concurrency} on {threads} thread(s)",
            callers=(_batch_caller(_compiled(model, concurrency, 1, "LATENCY"), batches_PNHWC),),
            images_per_call=concurrency,
        )
    )
    return ways


def _compiled(model: ServedModel, images: int, streams: int | None, hint: str) -> Any:
    """The graph for a fixed number of images, with the arithmetic and the threads of the served model."""
    core = _core()
    graph = core.read_model(model.graph)
    graph.reshape({INPUT: [images, *model.contract.size_hw, 3]})
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_NUM_THREADS": model.threads,
        "INFERENCE_PRECISION_HINT": model.inference_precision,
    }
    if streams is not None:
        settings["NUM_STREAMS"] = streams
    return core.compile_model(graph, "CPU", settings)


@functools.cache
def _core() -> Any:
    """The one Core of this process.

    Each Core gives the thread that makes it an alternate signal stack. Of two Cores the one that goes last restores the
    stack of the one that is gone, and the next signal, a Ctrl-C, kills the process with SIGSEGV (OpenVINO 2026.4).
    """
    import openvino as ov

    return ov.Core()


def _caller(compiled: Any, pictures_PHWC: NDArray[np.uint8]) -> Call:
    return _batch_caller(compiled, pictures_PHWC[:, None])


def _batch_caller(compiled: Any, batches_PNHWC: NDArray[np.uint8]) -> Call:
    """A request of its own, which reads the pictures where they are."""
    import openvino as ov

    request = compiled.create_infer_request()
    tensors: Sequence[Any] = [ov.Tensor(batch_NHWC, shared_memory=True) for batch_NHWC in batches_PNHWC]

    def infer(picture: int) -> object:
        request.set_tensor(INPUT, tensors[picture % len(tensors)])
        request.infer()
        # The next call overwrites the output.
        return request.get_tensor(OUTPUT).data.copy()

    return infer
