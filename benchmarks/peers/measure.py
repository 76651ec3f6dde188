"""Everybody's boxes first; then bytes, milliseconds and images per second, in turns; then memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Spread, percentile_ms, ratios
from benchmarks.machine import OtherLoad, environment
from benchmarks.peers.agreement import Agreement, Boxes, agreement
from benchmarks.peers.contestants import REFERENCE, Contestant, Field, Progress, contestants, pytorch
from benchmarks.peers.processes import PeerError, Worker, memory_bytes
from benchmarks.peers.report import PeersReport, Row, Wire
from benchmarks.peers.wire import CountingRelay
from benchmarks.pictures import picture_paths
from builder.errors import ExportError, SpecError


@dataclass(frozen=True, kw_only=True, slots=True)
class PeersOptions:
    """What was asked for."""

    weights: Path
    images: tuple[Path, ...]
    callers: int
    """At once, for the throughput."""
    calls: int
    """Of each in each turn, for each picture."""
    duration_s: float
    """Of each throughput in each turn."""
    settle_s: float
    repeats: int
    """Turns."""
    roboflow_python: Path | None


@dataclass(kw_only=True)
class _Run:
    """A contestant that found the boxes, and what it did in each turn."""

    contestant: Contestant
    worker: Worker
    agreement: Agreement
    wire: Wire | None
    latencies_s: list[list[float]] = field(default_factory=list)
    throughputs_images_per_s: list[float] = field(default_factory=list)
    memory_bytes: int = 0

    @property
    def sessions(self) -> tuple[int, ...]:
        """Of all its processes."""
        return (*self.contestant.sessions, self.worker.pid)

    def turn(self, options: PeersOptions) -> None:
        """Time it once."""
        self.latencies_s.append(self.worker.ask("latency", calls=options.calls))
        self.throughputs_images_per_s.append(
            self.worker.ask(
                "throughput", callers=options.callers, settle_s=options.settle_s, duration_s=options.duration_s
            )
        )
        self.memory_bytes = memory_bytes(self.sessions)


def measure_peers(options: PeersOptions, argv: Sequence[str], progress: Progress) -> PeersReport:
    """Serve the same weights in every way, compare what they find, and measure those that find the same.

    Raises:
        BuilderError: this project's own build or server fails, a picture cannot be read, or nothing is on any of them.
    """
    pictures = [str(path.resolve()) for path in picture_paths(options.images)]
    for path in pictures:
        if not Path(path).is_file():
            raise SpecError(f"--images {path}: expected a picture, found no file")
    with tempfile.TemporaryDirectory(prefix="yolo-triton-") as folder, contextlib.ExitStack() as stack:
        taking_part = stack.enter_context(contestants(options.weights, options.roboflow_python, Path(folder), progress))
        references = {
            borders: _reference(options.weights, taking_part.network.imgsz, borders, pictures)
            for borders in {contestant.borders for contestant in taking_part.contestants}
        }
        runs, disagreeing = _agreeing(taking_part, pictures, references, stack, progress)
        others = OtherLoad(*(session for run in runs for session in run.sessions))
        runs = _timed(runs, options, taking_part.not_run, progress)
        return PeersReport(
            weights=options.weights.name,
            imgsz=taking_part.network.imgsz,
            pictures=tuple(Path(path).name for path in pictures),
            boxes=sum(map(len, references[True])),
            repeats=options.repeats,
            callers=options.callers,
            duration_s=options.duration_s,
            other_cpu_share=others.share(),
            rows=_rows(runs),
            disagreeing=disagreeing,
            not_run=taking_part.not_run,
            environment=environment(argv, **taking_part.versions),
        )


def _agreeing(
    taking_part: Field,
    pictures: Sequence[str],
    references: Mapping[bool, Sequence[Boxes]],
    stack: contextlib.ExitStack,
    progress: Progress,
) -> tuple[list[_Run], dict[str, Agreement]]:
    """Those that found the boxes, with what they put on the wire, and those that found others."""
    runs, disagreeing = [], {}
    for contestant in taking_part.contestants:
        try:
            run = _checked(contestant, pictures, references[contestant.borders], stack)
            if run.agreement.holds:
                run.wire = _wire(contestant, run.worker, len(pictures))
        except PeerError as error:
            _leave_out(contestant, str(error), error, taking_part.not_run, progress)
            continue
        progress(f"{contestant.name}: boxes agree: {run.agreement}")
        if run.agreement.holds:
            runs.append(run)
        else:
            disagreeing[contestant.name] = run.agreement
    if REFERENCE in disagreeing:
        raise ExportError(f"{REFERENCE}: expected the boxes of PyTorch, got {disagreeing[REFERENCE]}")
    return runs, disagreeing


def _timed(runs: list[_Run], options: PeersOptions, not_run: dict[str, str], progress: Progress) -> list[_Run]:
    """Those that held out every turn."""
    for turn in range(options.repeats):
        # Each turn begins with another, so that nobody always follows the same one.
        first = turn % len(runs)
        for run in [*runs[first:], *runs[:first]]:
            try:
                run.turn(options)
            except PeerError as error:
                _leave_out(run.contestant, f"stopped in turn {turn + 1}: {error}", error, not_run, progress)
        runs = [run for run in runs if run.contestant.name not in not_run]
        progress(f"turn {turn + 1} of {options.repeats}")
    return runs


def _leave_out(
    contestant: Contestant, reason: str, error: PeerError, not_run: dict[str, str], progress: Progress
) -> None:
    # Nobody can be compared with what is not there.
    if contestant.name == REFERENCE:
        raise error
    not_run[contestant.name] = reason
    progress(f"{contestant.name}: not run: {reason}")


def _reference(weights: Path, size_hw: tuple[int, int], borders: bool, pictures: Sequence[str]) -> list[Boxes]:
    """What Ultralytics finds on PyTorch."""
    with Worker({**pytorch(weights, size_hw, borders), "pictures": pictures}) as worker:
        found = _boxes(worker)
    if not sum(map(len, found)):
        raise SpecError(
            "expected pictures in which these weights find something, found no box in any: whether everybody does the "
            "same work cannot be told; name others with --images"
        )
    return found


def _checked(
    contestant: Contestant, pictures: Sequence[str], reference: Sequence[Boxes], stack: contextlib.ExitStack
) -> _Run:
    """Start its worker and compare its boxes."""
    worker = stack.enter_context(Worker({**contestant.spec(contestant.port), "pictures": pictures}))
    compared = agreement(reference, _boxes(worker))
    return _Run(contestant=contestant, worker=worker, agreement=compared, wire=None)


def _boxes(worker: Worker) -> list[Boxes]:
    rows: list[list[list[float]]] = worker.ask("boxes")
    return [np.asarray(each, np.float64).reshape(-1, 6) for each in rows]


def _wire(contestant: Contestant, worker: Worker, pictures: int) -> Wire | None:
    """Bytes per picture of a client whose way to the server is a relay; connecting is not counted."""
    if not contestant.port:
        return None
    with CountingRelay(contestant.port) as relay:
        worker.ask("open_other", spec=contestant.spec(relay.port))
        sent_before, received_before = relay.counts()
        worker.ask("ask_other")
        sent, received = relay.counts()
        worker.ask("close_other")
    return Wire(sent_bytes=(sent - sent_before) / pictures, received_bytes=(received - received_before) / pictures)


def _rows(runs: Sequence[_Run]) -> tuple[Row, ...]:
    (ours,) = (run for run in runs if run.contestant.name == REFERENCE)
    return tuple(_row(run, ours) for run in runs)


def _row(run: _Run, ours: _Run) -> Row:
    values: list[float] = [value for turn in run.latencies_s for value in turn]
    medians, ours_medians = ([percentile_ms(turn, 50) for turn in each.latencies_s] for each in (run, ours))
    figures: dict[str, Any] = {
        "time_ratio": ratios(medians, ours_medians),
        "throughput_ratio": ratios(run.throughputs_images_per_s, ours.throughputs_images_per_s),
    }
    return Row(
        name=run.contestant.name,
        arithmetic=run.contestant.arithmetic,
        agreement=run.agreement,
        latency_p50_ms=percentile_ms(values, 50),
        latency_p99_ms=percentile_ms(values, 99),
        calls=len(values),
        throughput_images_per_s=Spread.of(run.throughputs_images_per_s),
        wire=run.wire,
        memory_bytes=run.memory_bytes,
        **figures,
    )
