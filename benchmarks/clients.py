"""What a client costs and gets: its work per frame, its throughput, restarts under load, many cameras for minutes."""

from __future__ import annotations

import enum
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.cameras import run_cameras
from benchmarks.clients_report import CameraRun, ClientsReport, ThroughputRow, Work
from benchmarks.clients_throughput import OWN_LOAD, OwnLoad, PerfAnalyzerLoad, Timing, measure_throughput
from benchmarks.clients_work import Subject, measure_work
from benchmarks.machine import OtherLoad, environment
from benchmarks.pictures import letterboxed, picture_paths
from benchmarks.restarts import restart_under_load
from benchmarks.served import server_version, triton_server
from benchmarks.served_model import find_served_model
from clients import read_image

FULL_HD_HW = (1080, 1920)

Progress = Callable[[str], None]


class Part(enum.StrEnum):
    """What is measured."""

    WORK = "work"
    THROUGHPUT = "throughput"
    RESTARTS = "restarts"
    CAMERAS = "cameras"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientsOptions:
    """What was asked for."""

    model: str
    repository: Path
    parts: frozenset[Part]
    repeats: int
    """Turns of work and of throughput."""
    frames: int
    """Of each way to send them in each turn."""
    duration_s: float
    """Of each throughput in each turn."""
    settle_s: float
    kills: int
    perf_analyzer: Path | None
    """The program; None: the load is this project's own."""
    cameras: int
    minutes: float
    share: float
    """Of what the machine can answer, what the cameras give."""


def measure_clients(options: ClientsOptions, argv: Sequence[str], progress: Progress) -> ClientsReport:
    """Measure what was asked for, one part after the other; ``progress`` gets a line as each turn ends.

    Raises:
        BuilderError: no such model, tritonserver or perf_analyzer cannot be started, or nothing was answered in time.
        ClientError: tritonserver refused a request.
    """
    model = find_served_model(options.repository, options.model)
    frames = [_full_hd(path) for path in picture_paths(())]
    inputs_PHWC = letterboxed(picture_paths(()), model.contract.size_hw)
    # What is measured is the work of one core: OpenCV's second thread would spin between two short calls.
    cv2.setNumThreads(1)
    work: Work | None = None
    cameras: CameraRun | None = None
    throughput: tuple[ThroughputRow, ...] = ()
    reference = OWN_LOAD
    with triton_server(options.repository, options.model) as server:
        progress(f"tritonserver is ready after {server.ready_after_s:.1f} s")
        others, version = _Others(server.pid), server_version(server)
        subject = Subject(model=model, server=server, frames=frames, inputs_PHWC=inputs_PHWC)
        if Part.WORK in options.parts:
            work = measure_work(subject, repeats=options.repeats, count=options.frames, progress=progress)
        if Part.THROUGHPUT in options.parts:
            timing = Timing(settle_s=options.settle_s, duration_s=options.duration_s)
            tool = options.perf_analyzer
            load = PerfAnalyzerLoad(tool, subject, timing) if tool else OwnLoad(subject, timing)
            throughput = measure_throughput(subject, load, timing, repeats=options.repeats, progress=progress)
            reference = load.name
        if Part.CAMERAS in options.parts:
            cameras = run_cameras(
                subject, cameras=options.cameras, minutes=options.minutes, share=options.share, progress=progress
            )
        other_cpu_share = others.share()
    restarts = (
        restart_under_load(options.repository, options.model, options.kills, frames, progress)
        if Part.RESTARTS in options.parts
        else None
    )
    return ClientsReport(
        model=options.model,
        version=model.version,
        repeats=options.repeats,
        frames=options.frames,
        duration_s=options.duration_s,
        reference=reference,
        work=work,
        throughput=throughput,
        restarts=restarts,
        cameras=cameras,
        other_cpu_share=other_cpu_share,
        environment=environment(argv, tritonserver=version),
    )


class _Others:
    """What others use of the CPU: not this process, the server, or the programs that this one runs meanwhile."""

    def __init__(self, server_pid: int) -> None:
        self._others, self._start, self._children_s = OtherLoad(server_pid), time.monotonic(), _children_s()

    def share(self) -> float:
        """CPU time of others / (seconds * cores)."""
        children_s = _children_s() - self._children_s
        own = children_s / (time.monotonic() - self._start) / (cv2.getNumberOfCPUs() or 1)
        return max(0.0, self._others.share() - own)


def _children_s() -> float:
    """CPU time of the processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _full_hd(path: Path) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(read_image(path)[..., ::-1], FULL_HD_HW[::-1]), np.uint8)
