"""Detections as COCO results, which pycocotools, faster-coco-eval and annotation tools load.

The format is that of https://cocodataset.org/#format-results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from clients.detections import Detections, shortest

CategoryIds: TypeAlias = "Mapping[str, int] | Sequence[int]"
"""The data set's category of each class: by the class's name, or in the order of the class numbers."""


def coco_results(
    detections: Detections, image_id: int, category_ids: CategoryIds | None = None
) -> list[dict[str, Any]]:
    """One dictionary per detection, ready for JSON: image_id, category_id, bbox, score.

    ``bbox`` is x y width height in the picture's own pixels. Without ``category_ids`` a category is the class number,
    from 0. Raises ValueError for a class that was found and has no category.
    """
    numbers = _numbers(detections, category_ids)
    boxes_xywh = detections.xyxy.copy()
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    return [
        {
            "image_id": image_id,
            "category_id": numbers[class_id],
            "bbox": [shortest(side) for side in box],
            "score": shortest(confidence),
        }
        for box, confidence, class_id in zip(
            boxes_xywh, detections.confidence, detections.class_id.tolist(), strict=True
        )
    ]


def _numbers(detections: Detections, category_ids: CategoryIds | None) -> dict[int, int]:
    """The category of each class that was found."""
    found = sorted(set(detections.class_id.tolist()))
    if category_ids is None:
        return {class_id: class_id for class_id in found}
    if isinstance(category_ids, Mapping):
        known = {number: category_ids[name] for number, name in enumerate(detections.names) if name in category_ids}
    else:
        known = dict(enumerate(category_ids))
    if missing := [class_id for class_id in found if class_id not in known]:
        raise ValueError(
            f"expected a category for every class, got none for {detections.names[missing[0]]!r} "
            f"(class {missing[0]}): add it to category_ids"
        )
    return {class_id: known[class_id] for class_id in found}
