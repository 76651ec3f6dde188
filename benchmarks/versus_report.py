"""The figures of one run of ``python -m benchmarks versus-ultralytics``, as JSON and as what is printed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Spread
from benchmarks.machine import other_load_text
from benchmarks.tables import key_values, table


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One client from one kind of source, over all turns and pictures."""

    source: str
    client: str
    latency_p50_ms: float
    latency_p99_ms: float
    calls: int

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        return (
            f"{self.source}: {self.client}",
            f"{self.latency_p50_ms:.1f}",
            f"{self.latency_p99_ms:.1f}",
            str(self.calls),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The most time that ours may take, as a ratio to the faster protocol of theirs."""

    source: str
    ours: str
    theirs: str
    required: float
    ratio: Spread
    """Median latency of ours / median latency of theirs in the same turn."""
    met: bool
    """Whether the median over the turns is at most what is required."""

    def __str__(self) -> str:
        ratio = self.ratio
        return (
            f"target: from a {self.source}, {self.ours} at most {self.required:.2f} of {self.theirs}: "
            f"{ratio.median:.3f} ({ratio.lowest:.3f}-{ratio.highest:.3f}), {'met' if self.met else 'NOT MET'}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class VersusReport:
    """All figures of one run."""

    weights: str
    imgsz: tuple[int, int]
    pictures: tuple[str, ...]
    repeats: int
    calls: int
    boxes: dict[str, tuple[int, ...]]
    """How many each client found in each picture."""
    other_cpu_share: float
    """See ``machine.OtherLoad``."""
    rows: tuple[Row, ...]
    targets: tuple[Target, ...]
    environment: dict[str, str]

    @property
    def all_met(self) -> bool:
        """Whether every target is met."""
        return all(target.met for target in self.targets)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"benchmark": "versus-ultralytics", **dataclasses.asdict(self)}

    def to_text(self) -> str:
        """What is printed."""
        height, width = self.imgsz
        lines = [
            f"{self.weights} at {height}x{width}, image to boxes, one request at a time; one tritonserver has both",
            f"{self.repeats} turns, {self.calls} calls of each row for each picture in each",
            "ultralytics.YOLO(): the layout of Ultralytics' Triton guide, served by OpenVINO in place of onnxruntime",
            other_load_text(self.other_cpu_share),
            "",
            table(("boxes found", *self.pictures), [(name, *map(str, found)) for name, found in self.boxes.items()]),
            "",
            table(("", "p50 ms", "p99 ms", "calls"), [row.cells() for row in self.rows]),
            "",
            *map(str, self.targets),
            "",
            key_values(self.environment),
        ]
        return "\n".join(lines)
