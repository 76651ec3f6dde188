"""Detections as COCO results, read back by COCO's own kind of evaluation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from clients.detections import Detections

NAMES = ("circle", "square", "star")


def two() -> Detections:
    return Detections(
        np.array([[1, 2, 30.5, 40], [5.5, 6, 7, 8]], np.float32),
        np.array([0.87, 0.3], np.float32),
        np.array([2, 0], np.int64),
        NAMES,
    )


def test_boxes_are_corner_width_and_height_in_short_numbers() -> None:
    assert json.loads(json.dumps(two().to_coco(7))) == [
        {"image_id": 7, "category_id": 2, "bbox": [1.0, 2.0, 29.5, 38.0], "score": 0.87},
        {"image_id": 7, "category_id": 0, "bbox": [5.5, 6.0, 1.5, 2.0], "score": 0.3},
    ]


@pytest.mark.parametrize("category_ids", [{"circle": 11, "star": 90}, (11, 22, 90), [11, 22, 90, 5]])
def test_categories_are_those_of_the_data_set(category_ids: Any) -> None:
    assert [result["category_id"] for result in two().to_coco(1, category_ids)] == [90, 11]


@pytest.mark.parametrize("category_ids", [{"circle": 11}, (11, 22), ()])
def test_class_without_a_category_is_named(category_ids: Any) -> None:
    with pytest.raises(ValueError, match=r"^expected a category for every class, got none for '\w+' \(class \d\)"):
        two().to_coco(1, category_ids)


def test_class_that_was_not_found_needs_no_category() -> None:
    assert two().filter(0.5).to_coco(1, {"star": 3})[0]["category_id"] == 3
    assert two().filter(1.0).to_coco(1, ()) == []


def test_evaluation_of_its_own_results_as_truth_is_perfect() -> None:
    faster_coco_eval = pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 300, (40, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(20, 90, (40, 2)).astype(np.float32)], axis=1)
    found = Detections(boxes, rng.random(40, np.float32), rng.integers(0, 3, 40), NAMES)
    results = found.to_coco(1, (1, 2, 3))
    truth = faster_coco_eval.COCO(
        {
            "images": [{"id": 1, "width": 400, "height": 400}],
            "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)],
            "annotations": [
                {
                    "id": number,
                    "image_id": 1,
                    "category_id": result["category_id"],
                    "bbox": result["bbox"],
                    "area": result["bbox"][2] * result["bbox"][3],
                    "iscrowd": 0,
                }
                for number, result in enumerate(results, 1)
            ],
        }
    )
    evaluation = faster_coco_eval.COCOeval_faster(truth, truth.loadRes(results), "bbox")
    evaluation.run()
    assert evaluation.stats[0] == pytest.approx(1.0)
