"""Whether two detectors found the same: nobody is faster for having done less.

Legend: N and M boxes of one picture; 6 is x1 y1 x2 y2 in the picture's pixels, confidence, class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE, IOU = 0.25, 0.7
"""What everybody is asked for: Ultralytics' defaults."""
SAME_IOU = 0.8
"""Two boxes at least so alike are one: Roboflow's server rounds to whole pixels, half a pixel of 20 px is 0.9."""
MARGIN = 0.05
"""A box that is this close to the least confidence may be missing on either side."""
REQUIRED = 0.95

Boxes = NDArray[np.float64]
"""[N, 6]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Counted over all pictures."""

    matched: int
    """Boxes of the reference that were found, of the same class."""
    missed: int
    invented: int
    """Boxes that the reference has not."""
    largest_shift_px: float
    """Of a corner, over the matched boxes."""

    @property
    def share(self) -> float:
        """matched / (matched + missed + invented)."""
        return self.matched / max(1, self.matched + self.missed + self.invented)

    @property
    def holds(self) -> bool:
        """Whether it is enough to be timed."""
        return self.share >= REQUIRED

    def __str__(self) -> str:
        counts = f"{self.matched} matched, {self.missed} missed, {self.invented} invented"
        return f"{self.share:.1%} ({counts}, corners off by at most {self.largest_shift_px:.1f} px)"


def agreement(reference: Sequence[Boxes], found: Sequence[Boxes]) -> Agreement:
    """Compare picture by picture; each box of the reference, the surest first, takes the most similar one left."""
    matched = missed = invented = 0
    shift = 0.0
    for expected_N6, found_M6 in zip(reference, found, strict=True):
        pairs = _pairs(expected_N6, found_M6)
        matched += len(pairs)
        shift = max([shift, *(float(np.abs(expected_N6[n, :4] - found_M6[m, :4]).max()) for n, m in pairs)])
        sure = CONFIDENCE + MARGIN
        missed += sum(bool(box[4] >= sure) for n, box in enumerate(expected_N6) if n not in {n for n, _ in pairs})
        invented += sum(bool(box[4] >= sure) for m, box in enumerate(found_M6) if m not in {m for _, m in pairs})
    return Agreement(matched=matched, missed=missed, invented=invented, largest_shift_px=shift)


def _pairs(expected_N6: Boxes, found_M6: Boxes) -> list[tuple[int, int]]:
    left = set(range(len(found_M6)))
    pairs = []
    for n in np.argsort(-expected_N6[:, 4], kind="stable").tolist():
        alike = {m: _iou(expected_N6[n], found_M6[m]) for m in left if expected_N6[n, 5] == found_M6[m, 5]}
        best = max(alike, key=lambda m: alike[m], default=None)
        if best is not None and alike[best] >= SAME_IOU:
            pairs.append((n, best))
            left.remove(best)
    return pairs


def _iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    sides = np.minimum(one[2:4], other[2:4]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.clip(sides, 0, None)))
    areas = [float(np.prod(box[2:4] - box[:2])) for box in (one, other)]
    return shared / max(sum(areas) - shared, 1e-9)
