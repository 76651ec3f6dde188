"""The CPU time that a client takes for one full HD frame, beside the model and from a server that answers at once."""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.clients_report import Work, WorkRow
from benchmarks.figures import Spread
from benchmarks.instant_model import write_instant_model
from benchmarks.served import grpc_callers, triton_server
from benchmarks.served_model import ServedModel
from builder.server import TritonServer
from clients import Detector, letterbox
from clients.images import ChannelOrder

WAYS = ("gRPC", "HTTP", "shared memory")
WARM_UP_FRAMES = 10

Frames = Sequence[NDArray[np.uint8]]
"""BGR, uint8 [H, W, 3]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is measured with."""

    model: ServedModel
    server: TritonServer
    frames: Frames
    inputs_PHWC: NDArray[np.uint8]
    """The same pictures as they are sent: RGB, of the model's size."""

    @property
    def name(self) -> str:
        """Of the model."""
        return self.model.contract.model

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the model's input."""
        return self.model.contract.size_hw


def measure_work(subject: Subject, *, repeats: int, count: int, progress: Callable[[str], None]) -> Work:
    """So many turns of ``count`` frames each way."""
    beside = _Turns(subject, count)
    for turn in range(repeats):
        beside.turn()
        progress(f"turn {turn + 1} of {repeats}, work beside the model: {beside.last_text()}")
    contract = subject.model.contract
    with grpc_callers(subject.server, contract, subject.inputs_PHWC, 1) as (caller,):
        rows_BN6 = caller(0)
    assert isinstance(rows_BN6, np.ndarray)
    with tempfile.TemporaryDirectory() as folder:
        write_instant_model(Path(folder), contract, np.asarray(rows_BN6[0], np.float32))
        with triton_server(Path(folder), subject.name) as instant_server:
            alone = _Turns(replace(subject, server=instant_server), count)
            for turn in range(repeats):
                alone.turn()
                progress(f"turn {turn + 1} of {repeats}, work for a model that answers at once: {alone.last_text()}")
    return Work(
        alone=alone.rows(),
        beside_the_model=beside.rows(),
        letterbox_ms=Spread.of(alone.letterbox_ms),
        letterbox_allocated_bytes=_allocated_by_letterbox(subject.frames[0], subject.size_hw),
    )


@dataclass
class _Turns:
    """The figures of all turns on one server."""

    subject: Subject
    count: int
    cpu_ms: dict[str, list[float]] = field(default_factory=dict)
    letterbox_ms: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Measure everything once."""
        subject, size_hw = self.subject, self.subject.size_hw
        out_HWC = np.empty((*size_hw, 3), np.uint8)
        self.letterbox_ms.append(self._cpu_ms(lambda frame: letterbox(frame, size_hw, out_HWC, order=ChannelOrder.BGR)))
        # The other way round in every other turn: a machine that slows down slows down each of them.
        for way in WAYS if len(self.letterbox_ms) % 2 else WAYS[::-1]:
            url = subject.server.http_url if way == "HTTP" else subject.server.grpc_url
            send = "shared-memory" if way == "shared memory" else "pixels"
            with Detector(url, subject.name, send=send) as detector:
                self.cpu_ms.setdefault(way, []).append(self._cpu_ms(detector.detect))

    def last_text(self) -> str:
        """Figures of the last turn."""
        return ", ".join(f"{way} {self.cpu_ms[way][-1]:.2f} ms" for way in WAYS)

    def rows(self) -> tuple[WorkRow, ...]:
        """The figures over all turns."""
        return tuple(WorkRow(way=way, cpu_ms=Spread.of(self.cpu_ms[way])) for way in WAYS)

    def _cpu_ms(self, work: Callable[[NDArray[np.uint8]], object]) -> float:
        """CPU time of this process, of all its threads, for one frame; the server is another process."""
        start_s, frames = 0.0, self.subject.frames
        for number in range(WARM_UP_FRAMES + self.count):
            if number == WARM_UP_FRAMES:
                start_s = time.process_time()
            work(frames[number % len(frames)])
        return (time.process_time() - start_s) / self.count * 1e3


def _allocated_by_letterbox(frame: NDArray[np.uint8], size_hw: tuple[int, int]) -> int:
    """The most that is held at a time more than before, once it has run; numpy's and OpenCV's arrays are traced."""
    out_HWC = np.empty((*size_hw, 3), np.uint8)
    letterbox(frame, size_hw, out_HWC, order=ChannelOrder.BGR)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        letterbox(frame, size_hw, out_HWC, order=ChannelOrder.BGR)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
