"""Whether two detectors found the same."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.peers.agreement import CONFIDENCE, MARGIN, REQUIRED, Boxes, agreement

A = [10, 10, 50, 50, 0.9, 0]
B = [100, 100, 160, 140, 0.6, 1]


def boxes(*rows: list[float]) -> Boxes:
    return np.asarray(rows, np.float64).reshape(-1, 6)


def moved(row: list[float], pixels: float) -> list[float]:
    return [row[0] + pixels, row[1], row[2] + pixels, row[3], *row[4:]]


def test_the_same_boxes_in_another_order_agree() -> None:
    found = agreement([boxes(A, B), boxes()], [boxes(B, A), boxes()])
    assert (found.matched, found.missed, found.invented, found.largest_shift_px) == (2, 0, 0, 0)
    assert found.share == 1
    assert found.holds


def test_boxes_rounded_to_whole_pixels_agree_and_the_shift_is_told() -> None:
    found = agreement([boxes(moved(A, 0.5))], [boxes(A)])
    assert (found.matched, found.missed) == (1, 0)
    assert found.largest_shift_px == 0.5


@pytest.mark.parametrize("other", [moved(A, 8), [*A[:5], 1.0]], ids=["elsewhere", "of another class"])
def test_another_box_is_one_missed_and_one_invented(other: list[float]) -> None:
    found = agreement([boxes(A, B)], [boxes(other, B)])
    assert (found.matched, found.missed, found.invented) == (1, 1, 1)
    assert found.share == pytest.approx(1 / 3)
    assert not found.holds


def test_who_finds_nothing_does_not_agree() -> None:
    found = agreement([boxes(A, B)], [boxes()])
    assert found.share == 0
    assert not found.holds


def test_a_box_at_the_least_confidence_may_be_missing_on_either_side() -> None:
    doubtful = [*B[:4], CONFIDENCE + MARGIN / 2, 1]
    assert agreement([boxes(A, doubtful)], [boxes(A)]).share == 1
    assert agreement([boxes(A)], [boxes(A, doubtful)]).share == 1


def test_one_box_matches_one() -> None:
    found = agreement([boxes(A, moved(A, 1))], [boxes(A)])
    assert (found.matched, found.missed, found.invented) == (1, 1, 0)


def test_a_twentieth_may_differ() -> None:
    many = [moved(A, 100 * number) for number in range(20)]
    assert agreement([boxes(*many)], [boxes(*many[1:])]).share == pytest.approx(REQUIRED)
    assert agreement([boxes(*many)], [boxes(*many[1:])]).holds
    assert not agreement([boxes(*many)], [boxes(*many[2:])]).holds
