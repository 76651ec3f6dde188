"""The figures of one run of ``python -m benchmarks clients``, as JSON and as what is printed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Spread
from benchmarks.machine import other_load_text
from benchmarks.tables import key_values, table

WORK_TARGETS_MS = {"gRPC": 3.0, "shared memory": 1.5}
THROUGHPUT_TARGET = 0.95
MEMORY_GROWTH = 0.02
DELAY_GROWTH = 0.10
"""Of the median, from the first third to the last; two thirds of an even load differ by half of that."""
A_PICTURE = 4096
"""Bytes that no picture is smaller than, and that the letterbox's other objects are."""
THROUGHPUT_ROW = "detect_many, gRPC, of the model's size"
"""The one that sends what the reference sends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkRow:
    """One way to send a frame."""

    way: str
    cpu_ms: Spread
    """CPU time of the client's process / frames, 1080p BGR to boxes, over the turns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a client does for one 1080p frame."""

    alone: tuple[WorkRow, ...]
    """Of a server that answers at once: the client's own."""
    beside_the_model: tuple[WorkRow, ...]
    """Of the model on the same cores, which leaves them cold for the client."""
    letterbox_ms: Spread
    """CPU time of the letterbox alone."""
    letterbox_allocated_bytes: int
    """What it holds at most more than before, for a frame that is not its first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ThroughputRow:
    """One client, or the load that it is compared with."""

    way: str
    images_per_s: Spread
    ratio: Spread | None
    """Images/s / those of the reference in the same turn; None for the reference."""
    in_flight: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Restarts:
    """What became of the requests while the server was killed and started again."""

    kills: int
    timeout_s: float
    outcomes: dict[str, int]
    """How many ended in an answer, and in which error."""
    untyped: int
    """Of them in an error that is not this package's."""
    longest_s: float
    late: int
    """Of them after their deadline."""
    goes_on: bool
    """Whether requests were answered after the last restart, by detectors that were made before the first."""
    segments_left: list[str]
    """Files in /dev/shm that were not there before."""

    @property
    def is_met(self) -> bool:
        """Every request ended in an answer or a typed error in time, and nothing is left."""
        return self.goes_on and not (self.untyped or self.late or self.segments_left)


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraRun:
    """What became of the frames of many cameras; pairs are of the first third of the time and of the last."""

    cameras: int
    minutes: float
    capacity_frames_per_s: float
    """What the machine answers of these cameras as fast as it can."""
    share: float
    """Of that, what the cameras give."""
    captured: int
    answered: int
    dropped: int
    failed: int
    written_down: int
    """Frames with a line of their own: answered + failed, counted again."""
    seconds: float
    memory_mib: tuple[float, float]
    """The median of the client's resident memory."""
    server_memory_mib: tuple[float, float]
    """The same of tritonserver's processes together."""
    latency_p50_ms: tuple[float, float]
    """From the capture of a frame to its answer."""
    latency_p99_ms: tuple[float, float]

    @property
    def unaccounted(self) -> int:
        """captured - answered - dropped - failed, and lines that are missing."""
        lost = self.captured - self.answered - self.dropped - self.failed
        return abs(lost) + abs(self.answered + self.failed - self.written_down)

    @property
    def memory_growth(self) -> float:
        """Last third / first third - 1."""
        return self.memory_mib[1] / self.memory_mib[0] - 1

    @property
    def delay_growth(self) -> float:
        """The same of the median latency."""
        return self.latency_p50_ms[1] / self.latency_p50_ms[0] - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientsReport:
    """All figures of one run."""

    model: str
    version: int
    repeats: int
    frames: int
    duration_s: float
    reference: str
    work: Work | None
    throughput: tuple[ThroughputRow, ...]
    restarts: Restarts | None
    cameras: CameraRun | None
    other_cpu_share: float
    """See ``machine.OtherLoad``; without the restarts."""
    environment: dict[str, str]

    @property
    def all_met(self) -> bool:
        """Whether every target is met."""
        return all(met for _, met in self._targets())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"benchmark": "clients", **dataclasses.asdict(self)}

    def to_text(self) -> str:
        """What is printed."""
        lines = [
            f"{self.model} version {self.version}"
            + (f": {self.repeats} turns, in each " if self.work or self.throughput else "")
            + " and ".join(
                [f"{self.frames} frames for each row of work"] * bool(self.work)
                + [f"{self.duration_s:g} s for each of throughput"] * bool(self.throughput)
            ),
            other_load_text(self.other_cpu_share),
            "",
            *self._work_lines(),
            *self._throughput_lines(),
            *self._restart_lines(),
            *self._camera_lines(),
            *(f"target: {text}, {'met' if met else 'NOT MET'}" for text, met in self._targets()),
            "",
            key_values(self.environment),
        ]
        return "\n".join(lines)

    def _targets(self) -> list[tuple[str, bool]]:
        targets = []
        if self.work:
            work = {row.way: row.cpu_ms.median for row in self.work.alone}
            targets += [
                (f"{way}, at most {limit:g} ms of one core per 1080p frame: {work[way]:.2f}", work[way] <= limit)
                for way, limit in WORK_TARGETS_MS.items()
            ]
            allocated = self.work.letterbox_allocated_bytes
            targets.append(
                (f"the letterbox allocates no picture after the first: {allocated} bytes", allocated < A_PICTURE)
            )
        for row in self.throughput:
            if row.way == THROUGHPUT_ROW and row.ratio:
                text = f"{row.way}, at least {THROUGHPUT_TARGET:g} of {self.reference}: {row.ratio.median:.3f}"
                targets.append((text, row.ratio.median >= THROUGHPUT_TARGET))
        if self.restarts:
            text = (
                f"{self.restarts.kills} kills: every request ends in time in an answer or a typed error, nothing left"
            )
            targets.append((text, self.restarts.is_met))
        if run := self.cameras:
            minutes = f"{run.cameras} cameras, {run.minutes:g} minutes"
            targets += [
                (
                    f"{minutes}: memory grows by less than {MEMORY_GROWTH:.0%}: {run.memory_growth:+.1%}",
                    run.memory_growth < MEMORY_GROWTH,
                ),
                (
                    f"{minutes}: the median delay grows by less than {DELAY_GROWTH:.0%}: {run.delay_growth:+.1%}",
                    run.delay_growth < DELAY_GROWTH,
                ),
                (f"{minutes}: no frame unaccounted for: {run.unaccounted}", run.unaccounted == 0),
            ]
        return targets

    def _work_lines(self) -> list[str]:
        if not self.work:
            return []
        pairs = zip(self.work.alone, self.work.beside_the_model, strict=True)
        return [
            table(
                ("work per 1080p frame", "ms of one core (lowest-highest)", "the same beside the model"),
                [(row.way, str(row.cpu_ms), str(beside.cpu_ms)) for row, beside in pairs]
                + [("the letterbox alone", str(self.work.letterbox_ms), "")],
            ),
            f"what the letterbox allocates for a frame: {self.work.letterbox_allocated_bytes} bytes",
            "",
        ]

    def _throughput_lines(self) -> list[str]:
        if not self.throughput:
            return []
        return [
            table(
                ("throughput", "in flight", "images/s (lowest-highest)", "ratio (lowest-highest)"),
                [
                    (row.way, str(row.in_flight), str(row.images_per_s), str(row.ratio) if row.ratio else "1")
                    for row in self.throughput
                ],
            ),
            "",
        ]

    def _camera_lines(self) -> list[str]:
        run = self.cameras
        if not run:
            return []
        return [
            f"{run.cameras} cameras, 1080p, at {run.share:g} of the {run.capacity_frames_per_s:.1f} frames/s that are "
            f"answered as fast as possible, for {run.seconds:.0f} s:",
            f"{run.captured} captured = {run.answered} answered + {run.dropped} dropped + {run.failed} failed; "
            f"{run.written_down} written down, {run.unaccounted} unaccounted for",
            table(
                ("", "first third", "last third"),
                [
                    (what, *(f"{value:.1f}" for value in pair))
                    for what, pair in (
                        ("client's memory, MiB", run.memory_mib),
                        ("tritonserver's memory, MiB", run.server_memory_mib),
                        ("delay p50, ms", run.latency_p50_ms),
                        ("delay p99, ms", run.latency_p99_ms),
                    )
                ],
            ),
            "",
        ]

    def _restart_lines(self) -> list[str]:
        restarts = self.restarts
        if not restarts:
            return []
        outcomes = ", ".join(f"{count} {kind}" for kind, count in restarts.outcomes.items())
        return [
            f"{restarts.kills} kills under load: {sum(restarts.outcomes.values())} requests = {outcomes}; "
            f"{restarts.untyped} in an error of another package",
            f"the longest took {restarts.longest_s:.2f} s of {restarts.timeout_s:g} s allowed, {restarts.late} were "
            f"late; left in /dev/shm: {', '.join(restarts.segments_left) or 'nothing'}",
            "",
        ]
