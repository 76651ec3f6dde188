"""Images per second of one ``detect_many``, against the best of a load whose requests are ready to be sent.

At how many requests at a time the reference is at its best is found first. The best of several turns of each number
would be the luckiest one: so each turn measures that one number, beside ``detect_many``, and every other turn the other
way round.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks import closed_loop
from benchmarks.clients_report import ThroughputRow
from benchmarks.clients_work import Subject
from benchmarks.figures import Spread, ratios
from benchmarks.perf_analyzer import ClosedLoop, PerfAnalyzer, Target, find_perf_analyzer, write_input_data
from benchmarks.served import grpc_callers
from clients import Detector

CONCURRENCIES = (1, 2, 4, 8, 16)
FINALISTS = 2
"""Numbers that are tried a second time to find the best."""
OWN_LOAD = "benchmarks/closed_loop.py"
READY, FULL_HD = "of the model's size", "1080p"
WAYS = tuple((send, size) for send in ("gRPC", "shared memory") for size in (READY, FULL_HD))


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Of each row in each turn."""

    settle_s: float
    """Before it, not counted."""
    duration_s: float


class Reference(Protocol):
    """What detect_many is compared with."""

    name: str

    def images_per_s(self, concurrency: int) -> float:
        """With so many requests of one image at a time."""


class PerfAnalyzerLoad:
    """NVIDIA's perf_analyzer, which sends the same pictures."""

    def __init__(
        self,
        program: Path,
        subject: Subject,
        timing: Timing,
    ) -> None:
        """Find the program; raises SpecError where it does not run."""
        self._tool: PerfAnalyzer = find_perf_analyzer(program)
        self._target = Target(
            url=subject.server.grpc_url,
            model=subject.name,
            shape=(*subject.size_hw, 3),
            data=write_input_data(subject.inputs_PHWC),
            server_pid=subject.server.pid,
        )
        self._timing = timing
        self.name = self._tool.name

    def images_per_s(self, concurrency: int) -> float:
        """Of the answers in one window; raises ServerError where it cannot measure."""
        load = ClosedLoop(concurrency=concurrency)
        window = self._tool.window(
            self._target, load, window_s=self._timing.duration_s, warm_up_s=self._timing.settle_s
        )
        return window.images_per_s


class OwnLoad:
    """Threads of this process that call the transport with pictures that are letterboxed already."""

    name = OWN_LOAD

    def __init__(self, subject: Subject, timing: Timing) -> None:
        self._subject, self._timing = subject, timing

    def images_per_s(self, concurrency: int) -> float:
        """Of the answers in one window."""
        subject, timing = self._subject, self._timing
        with grpc_callers(subject.server, subject.model.contract, subject.inputs_PHWC, concurrency) as callers:
            window = closed_loop.measure(callers, settle_s=timing.settle_s, duration_s=timing.duration_s)
        return window.throughput_images_per_s


def measure_throughput(
    subject: Subject, reference: Reference, timing: Timing, *, repeats: int, progress: Callable[[str], None]
) -> tuple[ThroughputRow, ...]:
    """The reference first."""
    best = _best_concurrency(reference, progress)
    # BGR, as applications have them.
    ready = [np.ascontiguousarray(picture_HWC[..., ::-1]) for picture_HWC in subject.inputs_PHWC]
    pictures = {READY: ready, FULL_HD: subject.frames}

    def many(send: str, size: str) -> float:
        how = "shared-memory" if send == "shared memory" else "pixels"
        with Detector(subject.server.grpc_url, subject.name, send=how) as detector:
            return _many_images_per_s(detector, pictures[size], timing)

    measured: dict[str, Callable[[], float]] = {reference.name: partial(reference.images_per_s, best)}
    measured |= {f"detect_many, {send}, {size}": partial(many, send, size) for send, size in WAYS}
    rows: dict[str, list[float]] = {way: [] for way in measured}
    for turn in range(repeats):
        for way in list(measured)[:: 1 if turn % 2 == 0 else -1]:
            rows[way].append(measured[way]())
        progress(f"turn {turn + 1} of {repeats}: " + ", ".join(f"{way} {rows[way][-1]:.1f}/s" for way in measured))
    reference_row = ThroughputRow(
        way=f"{reference.name}, its best of {', '.join(map(str, CONCURRENCIES))}",
        images_per_s=Spread.of(rows[reference.name]),
        ratio=None,
        in_flight=best,
    )
    return (
        reference_row,
        *(
            ThroughputRow(
                way=way,
                images_per_s=Spread.of(figures),
                ratio=ratios(figures, rows[reference.name]),
                in_flight=subject.model.contract.saturating_requests,
            )
            for way, figures in rows.items()
            if way != reference.name
        ),
    )


def _best_concurrency(reference: Reference, progress: Callable[[str], None]) -> int:
    found = {concurrency: [reference.images_per_s(concurrency)] for concurrency in CONCURRENCIES}
    finalists = sorted(CONCURRENCIES, key=lambda concurrency: found[concurrency][0])[-FINALISTS:]
    for concurrency in finalists:
        found[concurrency].append(reference.images_per_s(concurrency))
    progress(f"{reference.name}: " + ", ".join(f"{fmean(rates):.1f}/s at {each}" for each, rates in found.items()))
    return max(finalists, key=lambda concurrency: fmean(found[concurrency]))


def _many_images_per_s(detector: Detector, pictures: Sequence[NDArray[np.uint8]], timing: Timing) -> float:
    """Images/s of one detect_many, between two answers."""
    with contextlib.closing(detector.detect_many(cycle(pictures))) as results:
        settled = time.perf_counter() + timing.settle_s
        while time.perf_counter() < settled:
            next(results)
        start, count = time.perf_counter(), 0
        while time.perf_counter() < start + timing.duration_s:
            next(results)
            count += 1
        return count / (time.perf_counter() - start)
