"""From what was timed to the figures that are reported: every figure's unit is in its name, its formula beside it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What the callers of one arrangement got done while it was measured."""

    duration_s: float
    images: int
    """Images whose answer came within the window."""
    latencies_s: tuple[float, ...]
    """Of each call that ended within the window, from its start, which may lie before the window."""

    def __post_init__(self) -> None:
        """Refuse what no window can be."""
        if self.duration_s <= 0 or self.images < len(self.latencies_s):
            raise ValueError(f"expected a duration above 0 and an image or more per call, got {self}")

    @property
    def throughput_images_per_s(self) -> float:
        """Images answered / seconds of the window."""
        return self.images / self.duration_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """One figure over the turns of a run."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of one value per turn; raises ValueError for none."""
        ordered = sorted(values)
        if not ordered:
            raise ValueError("expected the value of one turn or more, got none")
        return cls(median=statistics.median(ordered), lowest=ordered[0], highest=ordered[-1])

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.lowest:.3f}-{self.highest:.3f})"


def ratios(measured: Sequence[float], reference: Sequence[float]) -> Spread:
    """measured / reference, turn by turn, so that a slow moment of the machine weighs on both sides of each ratio."""
    return Spread.of(m / r for m, r in zip(measured, reference, strict=True))


def percentile_ms(latencies_s: Iterable[float], percent: float) -> float:
    """The latency in milliseconds that ``percent`` of the calls do not exceed, between neighbours by interpolation."""
    values = list(latencies_s)
    if not values:
        raise ValueError("expected one latency or more, got none")
    return float(np.percentile(values, percent) * 1e3)
