"""A Detections value is checked when it is made, and cannot change after."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from clients.detections import Detection, Detections
from clients.errors import ContractError
from clients.letterbox import Letterbox

NAMES = ("circle", "square", "star")


def two(**changes: Any) -> Detections:
    values: dict[str, Any] = {
        "xyxy": np.array([[1, 2, 30, 40], [5.5, 6, 7, 8]], np.float32),
        "confidence": np.array([0.87, 0.3], np.float32),
        "class_id": np.array([2, 0], np.int64),
        "names": NAMES,
    }
    return Detections(**{**values, **changes})


def test_iteration_gives_one_object_at_a_time() -> None:
    first, second = two()
    assert first == Detection(xyxy=(1.0, 2.0, 30.0, 40.0), confidence=pytest.approx(0.87), class_id=2, name="star")
    assert second.name == "circle"
    assert len(two()) == 2


def test_filter_keeps_what_is_at_least_as_certain() -> None:
    assert [found.name for found in two().filter(0.5)] == ["star"]
    assert len(two().filter(0.3)) == 2
    assert len(two().filter(1.0)) == 0


def test_list_is_ready_for_json_in_short_numbers() -> None:
    text = json.dumps(two().to_list()[:1])
    assert text == '[{"class": "star", "class_id": 2, "confidence": 0.87, "xyxy": [1.0, 2.0, 30.0, 40.0]}]'


def test_numbers_of_the_list_give_the_same_float32_back() -> None:
    confidence = np.random.default_rng(1).random(500, np.float32)
    found = Detections(np.zeros((500, 4), np.float32), confidence, np.zeros(500, np.int64), NAMES)
    back = np.array([entry["confidence"] for entry in found.to_list()], np.float32)
    np.testing.assert_array_equal(back, confidence)


def test_supervision_gets_the_same_values() -> None:
    found = two().to_supervision()
    np.testing.assert_array_equal(found.xyxy, two().xyxy)
    np.testing.assert_array_equal(found.confidence, two().confidence)
    np.testing.assert_array_equal(found.class_id, [2, 0])
    assert list(found.data["class_name"]) == ["star", "circle"]


def test_empty_detections_work_everywhere() -> None:
    none = two().filter(1.0)
    assert none.to_list() == []
    assert list(none) == []
    assert len(none.to_supervision()) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xyxy": np.zeros((2, 5), np.float32)}, r"expected xyxy as float32 \[2, 4\], got float32 \[2, 5\]"),
        ({"xyxy": np.zeros((3, 4), np.float32)}, r"expected xyxy as float32 \[2, 4\]"),
        ({"xyxy": np.zeros((2, 4))}, "got float64"),
        ({"class_id": np.zeros(2, np.int32)}, "expected class_id as int64"),
        ({"confidence": np.zeros((2, 1), np.float32)}, "expected confidence as float32"),
        ({"confidence": np.array([np.nan, 0], np.float32)}, "NaN or infinity"),
        ({"xyxy": np.full((2, 4), np.inf, np.float32)}, "NaN or infinity"),
        ({"class_id": np.array([0, 3])}, "expected class numbers from 0 to 2, got 0 to 3 with 3 names"),
        ({"class_id": np.array([-1, 0])}, "expected class numbers from 0 to 2"),
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two(**changes)


def test_values_cannot_change() -> None:
    xyxy = np.zeros((2, 4), np.float32)
    found = two(xyxy=xyxy)
    with pytest.raises(ValueError, match="read-only"):
        found.xyxy[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.names = ()  # type: ignore[misc]
    xyxy[0, 0] = 1


def test_equal_values_are_equal() -> None:
    assert two() == two()
    assert two() != two(class_id=np.array([1, 0]))
    assert two() != "two"


class TestRows:
    box = Letterbox.fit((100, 200), (64, 64))

    def rows(self, *rows: list[float]) -> np.ndarray:
        unused = 5 - len(rows)
        return np.array([*rows, *[[0.0] * 6] * unused], np.float32)

    def test_rows_become_boxes_in_the_image(self) -> None:
        rows = self.rows([16, 16, 32, 32, 0.9, 1], [0, 0, 64, 64, 0.25, 0])
        found = Detections.from_rows(rows, self.box, NAMES, 0.25)
        np.testing.assert_array_equal(found.xyxy, [[50, 0, 100, 50], [0, 0, 200, 100]])
        np.testing.assert_array_equal(found.confidence, np.array([0.9, 0.25], np.float32))
        assert found.class_id.tolist() == [1, 0]
        assert found.names == NAMES

    def test_unused_rows_are_left_out_at_any_confidence(self) -> None:
        assert len(Detections.from_rows(self.rows([1, 1, 2, 2, 0.001, 0]), self.box, NAMES, 0.0)) == 1

    def test_threshold_is_compared_in_the_precision_of_the_server(self) -> None:
        assert len(Detections.from_rows(self.rows([1, 1, 2, 2, 0.3, 0]), self.box, NAMES, 0.3)) == 1

    @pytest.mark.parametrize("row", [[1, 1, 2, 2, 0.9, 7], [1, 1, 2, 2, 0.9, -1], [np.nan, 1, 2, 2, 0.9, 0]])
    def test_rows_that_no_detector_sends_are_an_error(self, row: list[float]) -> None:
        with pytest.raises(ContractError):
            Detections.from_rows(self.rows(row), self.box, NAMES, 0.25)

    def test_confidence_that_is_not_a_number_is_an_error(self) -> None:
        with pytest.raises(ContractError, match="NaN"):
            Detections.from_rows(self.rows([1, 1, 2, 2, np.nan, 0]), self.box, NAMES, 0.25)
