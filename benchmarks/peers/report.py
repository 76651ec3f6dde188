"""The figures of one run of ``python -m benchmarks peers``, as JSON and as what is printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Spread
from benchmarks.machine import other_load_text
from benchmarks.peers.agreement import REQUIRED, Agreement
from benchmarks.tables import key_values, table


@dataclass(frozen=True, kw_only=True, slots=True)
class Wire:
    """Per picture, framing included."""

    sent_bytes: float
    received_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One contestant over all turns and pictures."""

    name: str
    arithmetic: str
    agreement: Agreement
    """Of its boxes with those of PyTorch."""
    latency_p50_ms: float
    """From a file to boxes, one caller."""
    latency_p99_ms: float
    calls: int
    time_ratio: Spread
    """Its median / that of this project over gRPC in the same turn: above 1 is slower."""
    throughput_images_per_s: Spread
    throughput_ratio: Spread
    """Its / that of this project over gRPC in the same turn: above 1 is faster."""
    wire: Wire | None
    """None in process."""
    memory_bytes: int
    """Of server and client after the last turn; pages that processes share are counted once."""

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        sent, received = (
            (f"{self.wire.sent_bytes / 1e3:.1f}", f"{self.wire.received_bytes / 1e3:.1f}") if self.wire else ("-", "-")
        )
        return (
            self.name,
            self.arithmetic,
            f"{self.latency_p50_ms:.1f}",
            f"{self.latency_p99_ms:.1f}",
            _ratio(self.time_ratio),
            f"{self.throughput_images_per_s.median:.1f}",
            _ratio(self.throughput_ratio),
            sent,
            received,
            f"{self.memory_bytes / 1e6:.0f}",
            f"{self.agreement.share:.1%}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PeersReport:
    """All figures of one run."""

    weights: str
    imgsz: tuple[int, int]
    pictures: tuple[str, ...]
    boxes: int
    """That PyTorch finds in them."""
    repeats: int
    callers: int
    duration_s: float
    other_cpu_share: float
    """See ``machine.OtherLoad``."""
    rows: tuple[Row, ...]
    disagreeing: Mapping[str, Agreement]
    """Not timed, as they found something else."""
    not_run: Mapping[str, str]
    """Why."""
    environment: dict[str, str]

    @property
    def all_met(self) -> bool:
        """Whether all that ran found the boxes."""
        return not self.disagreeing

    @property
    def header(self) -> tuple[str, ...]:
        """Of the table of ``Row.cells``."""
        return (
            "",
            "arithmetic",
            "p50 ms",
            "p99 ms",
            "time / ours",
            "images/s",
            "images/s / ours",
            "kB sent",
            "kB back",
            "MB",
            "boxes",
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """How the figures are to be read."""
        height, width = self.imgsz
        return (
            f"{self.weights} at {height}x{width}, from a picture's file to boxes in its own pixels. {self.repeats} "
            f"turns, each beginning with another; {self.boxes} boxes in {len(self.pictures)} pictures, and who does "
            f"not find {REQUIRED:.0%} of PyTorch's is not timed.",
            "Every client is a process of its own, with one object for each caller: one for ms, "
            f"{self.callers} for images/s. 'ours' is this project over gRPC in FP32. kB are on the wire for a picture, "
            "framing included; pixels in shared memory are on none. MB are of server and client together.",
            "'guide' is Ultralytics' Triton guide with its own client, 'YOLO()' Ultralytics in process, on its own "
            "exports. All Triton layouts run in Triton's Python backend here, on onnxruntime or OpenVINO with all "
            "cores. The guide's free sizes let its client leave out grey borders, so it computes fewer pixels of a "
            "picture that is no square, and is judged by PyTorch without borders; with 'borders' it computes what "
            "everybody does. OpenVINO in Ultralytics' process chooses its arithmetic itself.",
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = dataclasses.asdict(self)
        for row, plain in zip(self.rows, values["rows"], strict=True):
            plain["agreement"]["share"] = row.agreement.share
        return {"benchmark": "peers", "version": 1, **values}

    def to_text(self) -> str:
        """What is printed."""
        lines = [*self.notes, other_load_text(self.other_cpu_share), ""]
        lines += [table(self.header, [row.cells() for row in self.rows]), ""]
        lines += [f"{name}: NOT TIMED, other boxes: {found}" for name, found in self.disagreeing.items()]
        lines += [f"{name}: not run: {reason}" for name, reason in self.not_run.items()]
        return "\n".join([*lines, "", key_values(self.environment)])


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.lowest:.2f}-{spread.highest:.2f})"
