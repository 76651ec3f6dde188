"""What a client costs and what it gets out of a server: its work per frame, its throughput, and restarts under load."""

from __future__ import annotations

import contextlib
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.clients_report import ClientsReport, ThroughputRow, WorkRow
from benchmarks.closed_loop import measure
from benchmarks.figures import Spread, ratios
from benchmarks.instant_model import write_instant_model
from benchmarks.machine import OtherLoad, environment
from benchmarks.perf_analyzer import ClosedLoop, PerfAnalyzer, Target, find_perf_analyzer
from benchmarks.pictures import letterboxed, picture_paths
from benchmarks.restarts import restart_under_load
from benchmarks.served import grpc_callers, server_version, triton_server
from benchmarks.served_model import ServedModel, find_served_model
from builder.server import TritonServer
from clients import Detector, letterbox, read_image
from clients.images import ChannelOrder

FULL_HD_HW = (1080, 1920)
GRPC, HTTP, SHARED_MEMORY_ROW = "gRPC", "HTTP", "shared memory"
CONCURRENCIES = (1, 2, 4, 8, 16)
OWN_LOAD = "benchmarks/closed_loop.py"
WARM_UP_FRAMES = 10

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientsOptions:
    """What was asked for."""

    model: str
    repository: Path
    repeats: int
    """Turns."""
    frames: int
    """Of each way to send them in each turn."""
    duration_s: float
    """Of each throughput in each turn."""
    settle_s: float
    kills: int
    perf_analyzer: Path | None
    """The program; None: the load is this project's own."""


def measure_clients(options: ClientsOptions, argv: Sequence[str], progress: Progress) -> ClientsReport:
    """Measure everything in turns on one server, then kill and restart it; ``progress`` gets a line as each part ends.

    Raises:
        BuilderError: no such model, tritonserver or perf_analyzer cannot be started, or nothing was answered in time.
        ClientError: tritonserver refused a request.
    """
    model = find_served_model(options.repository, options.model)
    tool = find_perf_analyzer(options.perf_analyzer) if options.perf_analyzer else None
    frames = [_full_hd(path) for path in picture_paths(())]
    # What is measured is the work of one core: OpenCV's second thread would spin between two short calls.
    cv2.setNumThreads(1)
    with triton_server(options.repository, options.model) as server:
        progress(f"tritonserver is ready after {server.ready_after_s:.1f} s")
        others = OtherLoad(server.pid)
        run = _Run(options, model, server, frames, tool)
        for turn in range(options.repeats):
            run.turn()
            progress(f"turn {turn + 1} of {options.repeats}: {run.last_turn_text()}")
        other_cpu_share = others.share()
        version = server_version(server)
        rows_N6 = run.rows()
    with tempfile.TemporaryDirectory() as folder:
        write_instant_model(Path(folder), model.contract, rows_N6)
        with triton_server(Path(folder), options.model) as server:
            alone = _Run(options, model, server, frames, None)
            for turn in range(options.repeats):
                alone.work()
                progress(
                    f"turn {turn + 1} of {options.repeats}, a model that answers at once: {alone.last_work_text()}"
                )
    restarts = (
        restart_under_load(options.repository, options.model, options.kills, frames, progress)
        if options.kills
        else None
    )
    return ClientsReport(
        model=options.model,
        version=model.version,
        repeats=options.repeats,
        frames=options.frames,
        duration_s=options.duration_s,
        reference=tool.name if tool else OWN_LOAD,
        work=alone.work_rows(),
        work_beside_the_model=run.work_rows(),
        letterbox_ms=Spread.of(alone.letterbox_ms),
        letterbox_allocated_bytes=_allocated_by_letterbox(frames[0], model.contract.size_hw),
        throughput=run.throughput_rows(),
        restarts=restarts,
        other_cpu_share=other_cpu_share,
        environment=environment(argv, tritonserver=version),
    )


@dataclass
class _Run:
    """The figures of all turns."""

    options: ClientsOptions
    model: ServedModel
    server: TritonServer
    frames: Sequence[NDArray[np.uint8]]
    """BGR, 1080p."""
    tool: PerfAnalyzer | None
    work_ms: dict[str, list[float]] = field(default_factory=dict)
    letterbox_ms: list[float] = field(default_factory=list)
    reference: list[tuple[float, int]] = field(default_factory=list)
    """The best images/s of each turn, and at how many requests at a time."""
    many: dict[str, list[float]] = field(default_factory=dict)

    def work(self) -> None:
        """Measure the work per frame once."""
        self.letterbox_ms.append(self._letterbox_ms())
        for name in (GRPC, HTTP, SHARED_MEMORY_ROW):
            with self._detector(name) as detector:
                self.work_ms.setdefault(name, []).append(_work_ms(detector, self.frames, self.options.frames))

    def rows(self) -> NDArray[np.float32]:
        """What the model answers to the first frame, float32 [N, 6]."""
        inputs_PHWC = letterboxed(picture_paths(()), self.model.contract.size_hw)
        with grpc_callers(self.server, self.model.contract, inputs_PHWC, 1) as (caller,):
            rows_BN6 = caller(0)
        assert isinstance(rows_BN6, np.ndarray)
        return np.asarray(rows_BN6[0], np.float32)

    def turn(self) -> None:
        """Measure everything once."""
        self.work()
        self.reference.append(self._best())
        inputs = letterboxed(picture_paths(()), self.model.contract.size_hw)[..., ::-1]
        for name in (GRPC, SHARED_MEMORY_ROW):
            with self._detector(name) as detector:
                for what, pictures in (("of the model's size", list(inputs)), ("1080p", self.frames)):
                    self.many.setdefault(f"{name}, {what}", []).append(self._many(detector, pictures))

    def last_work_text(self) -> str:
        """Figures of the last turn."""
        return "work per frame " + ", ".join(f"{name} {figures[-1]:.2f} ms" for name, figures in self.work_ms.items())

    def last_turn_text(self) -> str:
        """The same with throughputs."""
        many = ", ".join(f"{name} {figures[-1]:.1f}/s" for name, figures in self.many.items())
        best, concurrency = self.reference[-1]
        return f"{self.last_work_text()}; best {best:.1f}/s at {concurrency}; detect_many {many}"

    def work_rows(self) -> tuple[WorkRow, ...]:
        """The figures over all turns."""
        return tuple(WorkRow(way=name, cpu_ms=Spread.of(figures)) for name, figures in self.work_ms.items())

    def throughput_rows(self) -> tuple[ThroughputRow, ...]:
        """The reference first."""
        best = [figure for figure, _ in self.reference]
        concurrency = round(median(each for _, each in self.reference))
        reference = ThroughputRow(
            way=f"{self.tool.name if self.tool else OWN_LOAD}, best of {', '.join(map(str, CONCURRENCIES))} at a time",
            images_per_s=Spread.of(best),
            ratio=None,
            in_flight=concurrency,
        )
        return (
            reference,
            *(
                ThroughputRow(
                    way=f"detect_many, {name}",
                    images_per_s=Spread.of(figures),
                    ratio=ratios(figures, best),
                    in_flight=self.model.contract.saturating_requests,
                )
                for name, figures in self.many.items()
            ),
        )

    def _detector(self, name: str) -> Detector:
        url = self.server.http_url if name == HTTP else self.server.grpc_url
        return Detector(url, self.options.model, send="shared-memory" if name == SHARED_MEMORY_ROW else "pixels")

    def _letterbox_ms(self) -> float:
        size_hw = self.model.contract.size_hw
        out_HWC = np.empty((*size_hw, 3), np.uint8)
        start_s = 0.0
        for number in range(WARM_UP_FRAMES + self.options.frames):
            if number == WARM_UP_FRAMES:
                start_s = time.process_time()
            letterbox(self.frames[number % len(self.frames)], size_hw, out_HWC, order=ChannelOrder.BGR)
        return (time.process_time() - start_s) / self.options.frames * 1e3

    def _best(self) -> tuple[float, int]:
        """The highest throughput of requests that are ready to be sent."""
        if self.tool:
            return max((self._with_tool(self.tool, each), each) for each in CONCURRENCIES)
        inputs_PHWC = letterboxed(picture_paths(()), self.model.contract.size_hw)
        best = (0.0, 0)
        for concurrency in CONCURRENCIES:
            with grpc_callers(self.server, self.model.contract, inputs_PHWC, concurrency) as callers:
                window = measure(callers, settle_s=self.options.settle_s, duration_s=self.options.duration_s)
            best = max(best, (window.throughput_images_per_s, concurrency))
        return best

    def _with_tool(self, tool: PerfAnalyzer, concurrency: int) -> float:
        """Images/s of requests of random bytes."""
        target = Target(url=self.server.grpc_url, model=self.options.model, shape=(*self.model.contract.size_hw, 3))
        load = ClosedLoop(concurrency=concurrency)
        window = tool.window(target, load, window_s=self.options.duration_s, warm_up_s=self.options.settle_s)
        return window.images_per_s

    def _many(self, detector: Detector, pictures: Sequence[NDArray[np.uint8]]) -> float:
        """Images/s of one detect_many, between two answers."""
        with contextlib.closing(detector.detect_many(cycle(pictures))) as results:
            settled = time.perf_counter() + self.options.settle_s
            while time.perf_counter() < settled:
                next(results)
            start, count = time.perf_counter(), 0
            while time.perf_counter() < start + self.options.duration_s:
                next(results)
                count += 1
            return count / (time.perf_counter() - start)


def _full_hd(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(read_image(path)[..., ::-1], FULL_HD_HW[::-1]), np.uint8)


def _work_ms(detector: Detector, frames: Sequence[NDArray[np.uint8]], count: int) -> float:
    """CPU time of this process, of all its threads, for one frame from pixels to boxes; the server is another."""
    for number in range(WARM_UP_FRAMES):
        detector.detect(frames[number % len(frames)])
    start_s = time.process_time()
    for number in range(count):
        detector.detect(frames[number % len(frames)])
    return (time.process_time() - start_s) / count * 1e3


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
