"""The gate: what a graph may lose against FP32 before a build of it is refused."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from builder.comparison import AccuracyDrop, Comparison, ConfidenceDrift

_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class GateLimits:
    """The most that may be lost; a loss is the FP32 graph's figure minus the candidate's."""

    max_map_drop: float = 0.01
    """Of mAP50-95 over all classes."""
    max_confidence_drop: float = 0.05
    """The median over the boxes that both have: mAP hides it where all confidences sink together."""

    def failures(self, comparison: Comparison) -> list[str]:
        """A line for each limit that is passed, with the worst classes and sizes; none where the gate is passed."""
        lines = []
        map_drop, drop = comparison.overall.map50_95, confidence_drop(comparison.drift)
        # Written as "not within": a NaN is within nothing, and where no box is left there is nothing to be within.
        if map_drop is None or not map_drop <= self.max_map_drop:
            lines.append(
                f"mAP50-95 falls by {_figure(map_drop)}, limit {self.max_map_drop:g} "
                f"(worst classes: {_worst(comparison.classes)}; sizes: {_worst(comparison.sizes)})"
            )
        if drop is None or not drop <= self.max_confidence_drop:
            classes = {each.name: confidence_drop(each) for each in comparison.class_drifts}
            lines.append(
                f"the median confidence falls by {_figure(drop)}, limit {self.max_confidence_drop:g} "
                f"(worst classes: {_named(classes.items())}; {comparison.drift.lost} boxes are lost)"
            )
        return lines

    def violation(self, comparison: Comparison) -> float:
        """How far from passing: the larger loss as a part of its limit, 1 or less where the gate is passed."""
        losses = (
            (comparison.overall.map50_95, self.max_map_drop),
            (confidence_drop(comparison.drift), self.max_confidence_drop),
        )
        ratios = [float("inf") if loss is None else loss / max(limit, 1e-9) for loss, limit in losses]
        return float("inf") if any(map(math.isnan, ratios)) else max(ratios)


def confidence_drop(drift: ConfidenceDrift) -> float | None:
    """The median loss of confidence; None where no box is matched."""
    return None if drift.median is None else -drift.median


def _worst(drops: Iterable[AccuracyDrop]) -> str:
    return _named((each.name, each.map50_95) for each in drops)


def _named(losses: Iterable[tuple[str, float | None]]) -> str:
    known = sorted(((loss, name) for name, loss in losses if loss is not None), reverse=True)
    return ", ".join(f"{name} {_figure(loss)}" for loss, name in known[:_NAMED]) or "none"


def _figure(loss: float | None) -> str:
    return "all there is" if loss is None else f"{loss:.3f}"
