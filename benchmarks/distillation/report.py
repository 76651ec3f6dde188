"""The figures of one run of ``python -m benchmarks distillation``, as JSON and as what is printed."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any

from benchmarks.tables import key_values, table


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One manner of training; a figure per seed."""

    name: str
    accuracy: tuple[float, ...]
    """mAP50-95 after the last epoch."""
    step_ms: tuple[float, ...]
    """Seconds of the training without validation / its steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationReport:
    """All figures of one run; the first row is without a teacher."""

    teacher: str
    model: str
    train_images: int
    val_images: int
    imgsz: int
    epochs: int
    steps: int
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    environment: dict[str, str]

    @property
    def all_met(self) -> bool:
        """There is no target: a gain is a figure of one student, teacher and data set."""
        return True

    def gains(self, row: Row) -> tuple[float, ...]:
        """Accuracy - that of the first row with the same seed."""
        return tuple(own - alone for own, alone in zip(row.accuracy, self.rows[0].accuracy, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = dataclasses.asdict(self)
        for plain, row in zip(values["rows"], self.rows, strict=True):
            plain["gain"] = self.gains(row)
        return {"benchmark": "distillation", "version": 1, **values}

    def to_text(self) -> str:
        """What is printed."""
        header = ("", *(f"seed {seed}" for seed in self.seeds), "mean", *(f"gain {s}" for s in self.seeds), "mean",
                  "step ms")  # fmt: skip
        return "\n".join(
            [
                f"{self.model} from random weights, teacher {self.teacher}: {self.train_images} images of {self.imgsz} "
                f"pixels, {self.epochs} epochs, {self.steps} steps. mAP50-95 on {self.val_images} other images after "
                "the last epoch; gain: against the same seed without a teacher. A teacher does not change the random "
                "weights, the order of the images or their augmentation.",
                "",
                table(header, [self._cells(row) for row in self.rows]),
                "",
                key_values(self.environment),
            ]
        )

    def _cells(self, row: Row) -> tuple[str, ...]:
        first, gains = row is self.rows[0], self.gains(row)
        shown = ["-"] * (len(gains) + 1) if first else [f"{value:+.4f}" for value in (*gains, statistics.mean(gains))]
        accuracy = [f"{value:.4f}" for value in (*row.accuracy, statistics.mean(row.accuracy))]
        return (row.name, *accuracy, *shown, f"{statistics.mean(row.step_ms):.0f}")
