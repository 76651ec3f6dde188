"""The figures of one run of ``python -m benchmarks checkpoints``, as JSON and as what is printed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any

from benchmarks.figures import Spread
from benchmarks.machine import other_load_text
from benchmarks.tables import key_values, table

TARGET = 0.02
"""Of the time of a training, what its checkpoints may take."""


class Manner(Enum):
    """How a training saves."""

    NONE = "no saving"
    THREAD = "by the writer's thread"
    IN_LINE = "in line"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One manner over all turns."""

    manner: Manner
    step_ms: Spread
    """Seconds from one checkpoint to the next / steps between them."""
    more: Spread
    """Seconds from one checkpoint to the next / those without saving in the same turn - 1."""
    cost_ms: Spread
    """Of a checkpoint: what the training waits for, and what the steps take longer until it is written."""
    cost_share: Spread
    """cost / (seconds from one checkpoint to the next - cost)."""
    copy_ms: Spread
    """Of the state in memory, for which the training waits."""
    write_ms: Spread
    """That the training waits for: hash, file, fsync and rename; 0 where a thread does it."""
    write_cpu_ms: Spread
    """CPU time of the same."""

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        if self.manner is Manner.NONE:
            return (self.manner.value, _ms(self.step_ms), "-", "-", "-", "-", "-", "-")
        waited = _ms(self.write_ms) if self.manner is Manner.IN_LINE else "-"
        cpu = _ms(self.write_cpu_ms) if self.manner is Manner.IN_LINE else "-"
        return (
            self.manner.value,
            _ms(self.step_ms),
            _share(self.more),
            _ms(self.cost_ms),
            _share(self.cost_share),
            _ms(self.copy_ms),
            waited,
            cpu,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointReport:
    """All figures of one run."""

    model: str
    batch: int
    imgsz: int
    every: int
    repeats: int
    checkpoint_bytes: int
    rows: tuple[Row, ...]
    late: int
    """Checkpoints that were not written when the next was due."""
    other_cpu_share: float
    """See ``machine.OtherLoad``."""
    environment: dict[str, str]

    @property
    def all_met(self) -> bool:
        """Whether the thread costs less than the target, and writes faster than the training saves."""
        return self._of(Manner.THREAD).cost_share.median < TARGET and not self.late

    @property
    def verdict(self) -> str:
        """The target and what came."""
        thread = self._of(Manner.THREAD)
        seconds = thread.step_ms.median * self.every / 1e3
        met = "met" if self.all_met else "MISSED"
        late = f"; {self.late} checkpoint(s) were not written when the next was due" if self.late else ""
        return (
            f"a checkpoint each {self.every} steps ({seconds:.1f} s) by the thread: {thread.cost_share.median:.2%} of "
            f"the time, expected below {TARGET:.0%}: {met}{late}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = dataclasses.asdict(self)
        for plain, row in zip(values["rows"], self.rows, strict=True):
            plain["manner"] = row.manner.name.lower()
        return {"benchmark": "checkpoints", "version": 1, **values, "all_met": self.all_met}

    def to_text(self) -> str:
        """What is printed."""
        header = ("", "step ms", "more time", "cost ms", "cost share", "copy ms", "write ms", "write CPU ms")
        lines = [
            f"{self.model} at {self.imgsz} pixels, batch {self.batch}, forward to moving average on all cores; "
            f"checkpoints of {self.checkpoint_bytes / 1e6:.1f} MB, {self.repeats} turns, each beginning with another "
            "manner. More time is against the block without saving of the same turn. Cost is the copy, and what the "
            "steps take longer until the checkpoint is written than the block's others: what else the machine does "
            "weighs on it less. In brackets lowest and highest.",
            other_load_text(self.other_cpu_share),
            "",
            table(header, [row.cells() for row in self.rows]),
            "",
            self.verdict,
            "",
            key_values(self.environment),
        ]
        return "\n".join(lines)

    def _of(self, manner: Manner) -> Row:
        return next(row for row in self.rows if row.manner is manner)


def _share(spread: Spread) -> str:
    return f"{spread.median:+.2%} ({spread.lowest:+.2%} to {spread.highest:+.2%})"


def _ms(spread: Spread) -> str:
    return f"{spread.median:.1f} ({spread.lowest:.1f}-{spread.highest:.1f})"
