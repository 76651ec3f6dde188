"""What an application asks for is what it gets, and no other detection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clients
from clients.detections import Detections
from clients.selection import Selection

NAMES = ("person", "car", "dog", "car")
BOXES = [[0, 0, 10, 10], [10, 0, 30, 20], [40, 40, 60, 60], [90, 90, 100, 100], [5, 5, 5, 5]]


def found() -> Detections:
    return Detections(
        np.array(BOXES, np.float32),
        np.array([0.9, 0.7, 0.5, 0.5, 0.3], np.float32),
        np.array([0, 1, 2, 3, 0], np.int64),
        NAMES,
    )


def boxes(**selection: Any) -> list[list[float]]:
    return Selection(**selection).apply(found()).xyxy.tolist()


def test_nothing_asked_for_leaves_everything() -> None:
    assert Selection().apply(found()) == found()


def test_classes_are_chosen_by_name_also_where_two_share_one() -> None:
    assert boxes(classes=("car",)) == [BOXES[1], BOXES[3]]
    assert boxes(classes=("dog", "person")) == [BOXES[0], BOXES[2], BOXES[4]]
    assert boxes(classes=()) == []


def test_unknown_class_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"^no class 'cat', the model has: person, car, dog, car$"):
        Selection(classes=("car", "cat")).apply(found())


def test_confidence_is_compared_in_the_precision_of_the_server() -> None:
    assert boxes(confidence=0.7) == BOXES[:2]
    assert boxes(confidence=1.0) == []


def test_region_holds_the_boxes_whose_centre_is_inside() -> None:
    assert boxes(region_xyxy=(0, 0, 21, 100)) == [BOXES[0], BOXES[1], BOXES[4]]
    assert boxes(region_xyxy=(0, 0, 20, 100)) == [BOXES[0], BOXES[4]]
    assert boxes(region_xyxy=(50, 50, 51, 51)) == [BOXES[2]]
    assert boxes(region_xyxy=(-1000, -1000, 1000, 1000)) == BOXES


def test_maximum_keeps_the_surest_in_their_order() -> None:
    assert boxes(maximum=3) == BOXES[:3]
    assert boxes(maximum=0) == []
    backwards = Detections(found().xyxy[::-1], found().confidence[::-1], found().class_id[::-1], NAMES)
    assert Selection(maximum=2).apply(backwards).xyxy.tolist() == [BOXES[1], BOXES[0]]


def test_maximum_counts_what_the_others_leave() -> None:
    assert boxes(classes=("car", "dog"), maximum=2, confidence=0.1) == [BOXES[1], BOXES[2]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"confidence": 1.5}, "confidence from 0 to 1, got 1.5"),
        ({"confidence": float("nan")}, "confidence from 0 to 1, got nan"),
        ({"region_xyxy": (5, 0, 5, 1)}, "x1 < x2 and y1 < y2, got 5 0 5 1"),
        ({"region_xyxy": (0, 0, float("inf"), 1)}, "x1 < x2 and y1 < y2, got 0 0 inf 1"),
        ({"region_xyxy": (float("nan"), 0, 1, 1)}, "got nan 0 1 1"),
        ({"maximum": -1}, "maximum of 0 or more, got -1"),
    ],
)
def test_values_that_select_nothing_sensible_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selection(**wrong)


sides = st.floats(0, 100, width=32)


@given(
    st.lists(st.tuples(sides, sides, sides, sides, st.floats(0, 1, width=32), st.integers(0, 3)), max_size=12),
    st.floats(1, 99),
    st.floats(1, 99),
)
def test_regions_that_tile_the_picture_share_out_every_detection(rows: list[Any], cut_x: float, cut_y: float) -> None:
    table = np.array(rows, np.float32).reshape(-1, 6)
    all_of_them = Detections(table[:, :4], np.ascontiguousarray(table[:, 4]), table[:, 5].astype(np.int64), NAMES)
    tiles = [(x1, y1, x2, y2) for x1, x2 in ((0, cut_x), (cut_x, 101)) for y1, y2 in ((0, cut_y), (cut_y, 101))]
    counts = [len(Selection(region_xyxy=tile).apply(all_of_them)) for tile in tiles]
    assert sum(counts) == len(all_of_them)


@given(
    st.lists(st.tuples(sides, sides, sides, sides, st.floats(0, 1, width=32), st.integers(0, 3)), max_size=12),
    st.sets(st.sampled_from(NAMES)),
    st.floats(0, 1),
    st.integers(0, 12),
)
def test_selection_is_what_a_plain_loop_selects(
    rows: list[Any], classes: set[str], confidence: float, maximum: int
) -> None:
    table = np.array(rows, np.float32).reshape(-1, 6)
    table = table[np.argsort(-table[:, 4], kind="stable")]
    everything = Detections(table[:, :4], np.ascontiguousarray(table[:, 4]), table[:, 5].astype(np.int64), NAMES)
    selection = Selection(classes=tuple(classes), confidence=confidence, region_xyxy=(10, 20, 70, 80), maximum=maximum)
    expected = [
        each
        for each in everything
        if each.name in classes
        and each.confidence >= np.float32(confidence)
        and 20 <= each.xyxy[0] + each.xyxy[2] < 140
        and 40 <= each.xyxy[1] + each.xyxy[3] < 160
    ]
    assert list(selection.apply(everything)) == expected[:maximum]


def test_one_text_is_not_taken_for_the_names_of_its_letters() -> None:
    with pytest.raises(ValueError, match=r"^expected several names of classes, got one text: classes=\('car',\)$"):
        Selection(classes="car")  # type: ignore[arg-type]


def test_region_of_another_number_of_sides_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a region of four numbers x1 y1 x2 y2, got 3"):
        Selection(region_xyxy=(0, 0, 1))  # type: ignore[arg-type]


def test_applications_import_it_from_clients() -> None:
    assert clients.Selection is Selection
