"""What one graph loses against another on the same images: mAP, and the confidence of the same boxes.

Legend: N rows of an image, P pairs, 6 = x1 y1 x2 y2 confidence class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.accuracy import AccuracyReport, Figures, ImageDetections
from builder.matching import match

SAME_BOX_IOU = 0.5
"""What two boxes of a class must share to be the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfidenceDrift:
    """How the confidence of the reference's boxes changed: candidate - reference, over matched boxes.

    The reference's boxes are those of the operating threshold and above; the candidate's may have fallen below it. The
    figures are None where no box is matched.
    """

    name: str
    matched: int
    median: float | None
    """Signed: below 0 where confidence was lost."""
    percentile_5: float | None
    """Signed; the worse end where confidence is lost."""
    percentile_95: float | None
    """Signed."""
    median_absolute: float | None
    percentile_95_absolute: float | None
    lost: int
    """Boxes of the reference that the candidate has at no confidence."""
    fell_below: int
    """Matched boxes that the candidate has below the operating threshold."""
    gained: int
    """Boxes of the candidate, of the operating threshold and above, that the reference does not have there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyDrop:
    """What one group of objects lost: reference - candidate; above 0 is a loss, None without an object."""

    name: str
    objects: int
    map50_95: float | None
    map50: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """How much two graphs differ on one image."""

    path: Path
    score: float
    """Sum of absolute drifts, and of the confidences of the boxes that only one of them has."""
    index: int
    """The image's place in the data, and in each report's ``detections``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A candidate against a reference on the same images."""

    overall: AccuracyDrop
    sizes: tuple[AccuracyDrop, ...]
    classes: tuple[AccuracyDrop, ...]
    drift: ConfidenceDrift
    class_drifts: tuple[ConfidenceDrift, ...]
    disagreements: tuple[Disagreement, ...]
    """Of every image that can be read, the greatest first."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the images."""
        return {
            "map_drop": asdict(self.overall),
            "map_drop_by_size": [asdict(each) for each in self.sizes],
            "map_drop_by_class": [asdict(each) for each in self.classes],
            "confidence_drift": asdict(self.drift),
            "confidence_drift_by_class": [asdict(each) for each in self.class_drifts],
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pairing:
    """The boxes of one image, matched."""

    classes_P: NDArray[np.int64]
    drifts_P: NDArray[np.float64]
    fell_P: NDArray[np.bool_]
    lost_N6: NDArray[np.float32]
    gained_N6: NDArray[np.float32]

    @property
    def disagreement(self) -> float:
        """See ``Disagreement.score``."""
        return float(np.abs(self.drifts_P).sum() + self.lost_N6[:, 4].sum() + self.gained_N6[:, 4].sum())


def compare(reference: AccuracyReport, candidate: AccuracyReport) -> Comparison:
    """What ``candidate`` loses against ``reference``; both are reports of the same images and threshold.

    Raises:
        ValueError: they are not.
    """
    paths = [each.path for each in reference.detections]
    if paths != [each.path for each in candidate.detections] or reference.confidence != candidate.confidence:
        raise ValueError("expected two reports of the same images in the same order, at the same threshold")
    readable = [index for index, each in enumerate(reference.detections) if not each.problem]
    pairings = [
        _pair(reference.detections[index], candidate.detections[index], reference.confidence) for index in readable
    ]
    disagreements = [
        Disagreement(path=paths[index], score=pairing.disagreement, index=index)
        for index, pairing in zip(readable, pairings, strict=True)
    ]
    return Comparison(
        overall=_drop(reference.overall, candidate.overall),
        sizes=tuple(map(_drop, reference.sizes, candidate.sizes)),
        classes=tuple(map(_drop, reference.classes, candidate.classes)),
        drift=_drift("all", pairings),
        class_drifts=tuple(_drift(each.name, pairings, c) for c, each in enumerate(reference.classes)),
        disagreements=tuple(sorted(disagreements, key=lambda each: -each.score)),
    )


def _pair(reference: ImageDetections, candidate: ImageDetections, confidence: float) -> _Pairing:
    ours, theirs = (
        rows_N6[np.argsort(-rows_N6[:, 4], kind="stable")] for rows_N6 in (reference.rows_N6, candidate.rows_N6)
    )
    threshold = np.float32(confidence)
    ours = ours[ours[:, 4] >= threshold]
    pairs = match(
        ours[:, :4].astype(np.float64),
        ours[:, 5].astype(np.int64),
        theirs[:, :4].astype(np.float64),
        theirs[:, 5].astype(np.int64),
        SAME_BOX_IOU,
    )
    a_P, b_P = pairs.T
    free_N6 = np.delete(theirs, b_P, axis=0)
    return _Pairing(
        classes_P=ours[a_P, 5].astype(np.int64),
        drifts_P=theirs[b_P, 4].astype(np.float64) - ours[a_P, 4],
        fell_P=theirs[b_P, 4] < threshold,
        lost_N6=np.delete(ours, a_P, axis=0),
        gained_N6=free_N6[free_N6[:, 4] >= threshold],
    )


def _drift(name: str, pairings: Sequence[_Pairing], class_id: int | None = None) -> ConfidenceDrift:
    """Over all images, of all classes or one."""

    def chosen(classes_N: NDArray[Any]) -> NDArray[np.bool_]:
        return np.full(len(classes_N), fill_value=True) if class_id is None else classes_N == class_id

    drifts = np.concatenate([each.drifts_P[chosen(each.classes_P)] for each in pairings])
    p5, p50, p95 = np.percentile(drifts, (5, 50, 95)).tolist() if len(drifts) else (None, None, None)
    absolute50, absolute95 = np.percentile(np.abs(drifts), (50, 95)).tolist() if len(drifts) else (None, None)
    return ConfidenceDrift(
        name=name,
        matched=len(drifts),
        median=p50,
        percentile_5=p5,
        percentile_95=p95,
        median_absolute=absolute50,
        percentile_95_absolute=absolute95,
        lost=sum(int(chosen(each.lost_N6[:, 5]).sum()) for each in pairings),
        fell_below=sum(int(each.fell_P[chosen(each.classes_P)].sum()) for each in pairings),
        gained=sum(int(chosen(each.gained_N6[:, 5]).sum()) for each in pairings),
    )


def _drop(reference: Figures, candidate: Figures) -> AccuracyDrop:
    def difference(name: str) -> float | None:
        before, after = getattr(reference, name), getattr(candidate, name)
        return None if before is None or after is None else before - after

    return AccuracyDrop(
        name=reference.name, objects=reference.objects, map50_95=difference("map50_95"), map50=difference("map50")
    )
