"""The figures of one run of ``python -m benchmarks versus-ultralytics``, as JSON and as what is printed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Spread
from benchmarks.machine import other_load_text
from benchmarks.tables import key_values, table


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Whose client, on what layout, over which protocol."""

    layout: str | None
    """Of Ultralytics' client; None: this project's client and build."""
    protocol: str

    def __str__(self) -> str:
        return f"{f'YOLO(), {self.layout}' if self.layout else 'clients.Detector'}, {self.protocol}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One client from one kind of source, over all turns and pictures."""

    source: str
    client: Client
    latency_p50_ms: float
    latency_p99_ms: float
    calls: int
    boxes: tuple[int, ...]
    """How many it found in each picture."""

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        return (
            f"{self.source}: {self.client}",
            f"{self.latency_p50_ms:.1f}",
            f"{self.latency_p99_ms:.1f}",
            str(self.calls),
            "+".join(map(str, self.boxes)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Time of ours / time of theirs, over the turns."""

    source: str
    ours: Client
    theirs: Client
    ratio: Spread
    """Median latency of ours / median latency of theirs in the same turn."""
    required: float | None
    """The most that the median over the turns may be; None where nothing is required."""

    @property
    def met(self) -> bool | None:
        """Whether it is at most what is required."""
        return None if self.required is None else self.ratio.median <= self.required

    def __str__(self) -> str:
        ratio = f"{self.ratio.median:.3f} ({self.ratio.lowest:.3f}-{self.ratio.highest:.3f})"
        verdict = (
            "" if self.required is None else f"; target at most {self.required:.2f}: {'met' if self.met else 'NOT MET'}"
        )
        return f"{self.source}: {self.ours} / {self.theirs}: {ratio}{verdict}"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersusReport:
    """All figures of one run."""

    weights: str
    imgsz: tuple[int, int]
    pictures: tuple[str, ...]
    repeats: int
    calls: int
    other_cpu_share: float
    """See ``machine.OtherLoad``."""
    rows: tuple[Row, ...]
    ratios: tuple[Ratio, ...]
    environment: dict[str, str]

    @property
    def all_met(self) -> bool:
        """Whether every target is met."""
        return all(ratio.met is not False for ratio in self.ratios)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = dataclasses.asdict(self)
        for ratio, plain in zip(self.ratios, values["ratios"], strict=True):
            plain["met"] = ratio.met
        return {"benchmark": "versus-ultralytics", **values}

    def to_text(self) -> str:
        """What is printed."""
        height, width = self.imgsz
        lines = [
            f"{self.weights} at {height}x{width}, image to boxes, one request at a time, one tritonserver for all",
            f"{self.repeats} turns, {self.calls} calls of each row for each picture: {', '.join(self.pictures)}",
            "Both runtimes are used from Triton's Python backend. On the guide's layout Ultralytics' client sends",
            "pictures without grey borders, on a fixed size with them. clients.Detector's model computes in bf16",
            "where this CPU has it, the others in FP32.",
            other_load_text(self.other_cpu_share),
            "",
            table(("", "p50 ms", "p99 ms", "calls", "boxes"), [row.cells() for row in self.rows]),
            "",
            *map(str, self.ratios),
            "",
            key_values(self.environment),
        ]
        return "\n".join(lines)
