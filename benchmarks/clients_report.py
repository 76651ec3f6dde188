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
class ClientsReport:
    """All figures of one run."""

    model: str
    version: int
    repeats: int
    frames: int
    duration_s: float
    reference: str
    work: tuple[WorkRow, ...]
    """Of a server that answers at once: the client's own."""
    work_beside_the_model: tuple[WorkRow, ...]
    """Of the model on the same cores, which leaves them cold for the client."""
    letterbox_ms: Spread
    """CPU time of the letterbox alone."""
    letterbox_allocated_bytes: int
    """What it holds at most more than before, for a frame that is not its first."""
    throughput: tuple[ThroughputRow, ...]
    restarts: Restarts | None
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
            f"{self.model} version {self.version}: {self.repeats} turns, in each {self.frames} frames or "
            f"{self.duration_s:g} s for each row",
            other_load_text(self.other_cpu_share),
            "",
            table(
                ("work per 1080p frame", "ms of one core (lowest-highest)", "the same beside the model"),
                [
                    (row.way, str(row.cpu_ms), str(beside.cpu_ms))
                    for row, beside in zip(self.work, self.work_beside_the_model, strict=True)
                ]
                + [("the letterbox alone", str(self.letterbox_ms), "")],
            ),
            f"what the letterbox allocates for a frame: {self.letterbox_allocated_bytes} bytes",
            "",
            table(
                ("throughput", "in flight", "images/s", "ratio (lowest-highest)"),
                [
                    (
                        row.way,
                        str(row.in_flight),
                        f"{row.images_per_s.median:.1f}",
                        str(row.ratio) if row.ratio else "1",
                    )
                    for row in self.throughput
                ],
            ),
            "",
            *self._restart_lines(),
            *(f"target: {text}, {'met' if met else 'NOT MET'}" for text, met in self._targets()),
            "",
            key_values(self.environment),
        ]
        return "\n".join(lines)

    def _targets(self) -> list[tuple[str, bool]]:
        work = {row.way: row.cpu_ms.median for row in self.work}
        targets = [
            (f"{way}, at most {limit:g} ms of one core per 1080p frame: {work[way]:.2f}", work[way] <= limit)
            for way, limit in WORK_TARGETS_MS.items()
        ]
        allocated = self.letterbox_allocated_bytes
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
        return targets

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
