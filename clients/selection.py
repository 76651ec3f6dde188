"""Which detections an application wants: classes, confidence, a region of the picture, and how many at most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clients.detections import Detections


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """What to keep of a picture's detections; what is left out selects nothing away.

    Raises ValueError for values that no picture and no detector can have.
    """

    classes: tuple[str, ...] | None = None
    """Names of the classes to keep; None keeps all, an empty tuple none."""
    confidence: float = 0.0
    """The least confidence, 0 to 1."""
    region_xyxy: tuple[float, float, float, float] | None = None
    """x1 y1 x2 y2 in the picture's own pixels: a detection is kept where the centre of its box lies inside.

    The left and the upper edge belong to the region, the right and the lower one do not: regions that share an edge
    share no detection. A region may reach beyond the picture.
    """
    maximum: int | None = None
    """The most detections to keep, the surest first."""

    def __post_init__(self) -> None:
        if isinstance(self.classes, str):
            # Otherwise its letters would be the names.
            raise ValueError(f"expected several names of classes, got one text: classes=({self.classes!r},)")
        if not 0 <= self.confidence <= 1:
            raise ValueError(f"expected a confidence from 0 to 1, got {self.confidence}")
        if self.region_xyxy is not None:
            if len(self.region_xyxy) != 4:
                raise ValueError(f"expected a region of four numbers x1 y1 x2 y2, got {len(self.region_xyxy)}")
            x1, y1, x2, y2 = self.region_xyxy
            if not (all(map(math.isfinite, self.region_xyxy)) and x1 < x2 and y1 < y2):
                raise ValueError(
                    "expected a region x1 y1 x2 y2 in pixels with x1 < x2 and y1 < y2, got "
                    f"{' '.join(f'{side:g}' for side in self.region_xyxy)}"
                )
        if self.maximum is not None and self.maximum < 0:
            raise ValueError(f"expected a maximum of 0 or more, got {self.maximum}")

    def apply(self, detections: Detections) -> Detections:
        """Those that are selected, in their order; raises ValueError for a class that the model does not have."""
        # As float32, so that a threshold of 0.7 keeps what the server calls 0.7.
        keep = detections.confidence >= np.float32(self.confidence)
        if self.classes is not None:
            keep &= np.isin(detections.class_id, class_numbers(self.classes, detections.names))
        if self.region_xyxy is not None:
            x1, y1, x2, y2 = self.region_xyxy
            # float64 holds the sum of two float32 whole: no centre is rounded across an edge.
            corners = detections.xyxy.astype(np.float64)
            centre_x, centre_y = (corners[:, 0] + corners[:, 2]) / 2, (corners[:, 1] + corners[:, 3]) / 2
            keep &= (x1 <= centre_x) & (centre_x < x2) & (y1 <= centre_y) & (centre_y < y2)
        chosen = np.flatnonzero(keep)
        if self.maximum is not None and len(chosen) > self.maximum:
            surest = np.argsort(-detections.confidence[chosen], kind="stable")[: self.maximum]
            chosen = chosen[np.sort(surest)]
        return Detections(
            detections.xyxy[chosen], detections.confidence[chosen], detections.class_id[chosen], detections.names
        )


EVERYTHING = Selection()


def class_numbers(classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """The numbers of classes by their names, all of them where several share one; raises ValueError for an unknown."""
    if unknown := sorted(set(classes).difference(names)):
        raise ValueError(f"no class {unknown[0]!r}, the model has: {', '.join(names)}")
    return [number for number, name in enumerate(names) if name in classes]
