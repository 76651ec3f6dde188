"""COCO's average precision, by faster-coco-eval: the rules of COCO's own tool, over at most 300 detections an image.

COCO itself looks at 100; Ultralytics' validator and the served graph give 300, which crowded images need.

Legend: N objects, D detections, T IoU thresholds, R recall points, C classes, S sizes; 4 = x1 y1 x2 y2 in the image's
own pixels, 6 = x1 y1 x2 y2 confidence class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IOUS_T = np.linspace(0.5, 0.95, 10)
RECALLS_R = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 300
SMALL_BELOW_PX2, LARGE_FROM_PX2 = 32**2, 96**2
"""COCO's limits of an object's area; here of its box, since labels for detection hold no outline."""
SIZES = ("small", "medium", "large")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScoredImage:
    """What is on one image, and what was found on it."""

    image_hw: tuple[int, int]
    classes_N: NDArray[np.int64]
    boxes_N4: NDArray[np.float64]
    rows_D6: NDArray[np.float32]
    """Sorted by confidence."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrecisionTable:
    """Interpolated precision at every IoU threshold and recall, by class and size; -1 where there is no object."""

    precision_TRCS: NDArray[np.float64]
    """The first size is all of them, then SIZES."""

    def average(self, *, class_id: int | None = None, size: str | None = None, iou50: bool = False) -> float | None:
        """Mean precision over recalls, thresholds (or 0.5 alone) and classes; None where there is no object."""
        values = self.precision_TRCS[..., 0 if size is None else 1 + SIZES.index(size)]
        values = values[:1] if iou50 else values
        values = values if class_id is None else values[:, :, class_id]
        values = values[values > -1]
        return float(values.mean()) if values.size else None

    def curve(self, class_id: int) -> NDArray[np.float64] | None:
        """Precision at each of RECALLS_R at IoU 0.5; None where the class has no object."""
        curve_R: NDArray[np.float64] = self.precision_TRCS[0, :, class_id, 0]
        return curve_R if curve_R[0] > -1 else None


def precision_table(images: Sequence[ScoredImage], classes: int) -> PrecisionTable:
    """The precision of what was found on ``images``."""
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_truth(images, classes))
    evaluation = COCOeval_faster(truth, truth.loadRes(_found(images)), "bbox")
    parameters = evaluation.params
    parameters.iouThrs, parameters.recThrs, parameters.maxDets = IOUS_T, RECALLS_R, [MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision_TRCSM: NDArray[np.float64] = evaluation.eval["precision"]
    assert precision_TRCSM.shape == (len(IOUS_T), len(RECALLS_R), classes, 1 + len(SIZES), 1)
    return PrecisionTable(precision_TRCS=precision_TRCSM[..., 0])


def sizes_of(boxes_N4: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which of SIZES each box is, by its area."""
    areas = (boxes_N4[:, 2] - boxes_N4[:, 0]) * (boxes_N4[:, 3] - boxes_N4[:, 1])
    return np.searchsorted([SMALL_BELOW_PX2, LARGE_FROM_PX2], areas, side="right").astype(np.int64)


def _truth(images: Sequence[ScoredImage], classes: int) -> dict[str, Any]:
    """The labels as COCO's JSON has them; numbers of images and classes from 0, of annotations from 1."""
    annotations: list[dict[str, Any]] = []
    for index, image in enumerate(images):
        for class_id, box in zip(image.classes_N.tolist(), _xywh(image.boxes_N4).tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": class_id,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    return {
        "images": [
            {"id": index, "height": image.image_hw[0], "width": image.image_hw[1]} for index, image in enumerate(images)
        ],
        "annotations": annotations,
        "categories": [{"id": class_id} for class_id in range(classes)],
    }


def _found(images: Sequence[ScoredImage]) -> list[dict[str, Any]]:
    # An outline that is there already is not made from the box, which boxes have no use for.
    return [
        {"image_id": index, "category_id": int(class_id), "bbox": box, "score": score, "segmentation": []}
        for index, image in enumerate(images)
        for box, score, class_id in zip(
            _xywh(image.rows_D6[:, :4].astype(np.float64)).tolist(),
            image.rows_D6[:, 4].tolist(),
            image.rows_D6[:, 5].tolist(),
            strict=True,
        )
    ]


def _xywh(boxes_N4: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes_N4[:, :2], boxes_N4[:, 2:] - boxes_N4[:, :2]], axis=1)
