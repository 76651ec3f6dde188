"""Boxes and labels are drawn into a copy."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from clients.detections import Detections
from clients.draw import draw


def one(*box: float, name: str = "star") -> Detections:
    return Detections(np.array([box], np.float32), np.array([0.87], np.float32), np.array([0]), (name,))


def test_box_is_drawn_where_it_is(tmp_path: Path) -> None:
    picture = np.full((200, 300, 3), 60, np.uint8)
    drawn = draw(picture, one(100, 80, 200, 160))
    changed = np.argwhere((drawn != picture).any(axis=2))
    assert np.all(picture == 60)
    assert drawn.shape == picture.shape
    assert changed[:, 1].min() in range(95, 102)
    assert changed[:, 0].max() in range(158, 165)
    assert np.all(drawn[100:150, 120:180] == 60), "the object itself stays visible"

    path = tmp_path / "picture.png"
    cv2.imwrite(str(path), picture)
    np.testing.assert_array_equal(draw(path, one(100, 80, 200, 160)), drawn)


def test_without_detections_the_picture_is_copied() -> None:
    picture = np.full((20, 30, 3), 60, np.uint8)
    drawn = draw(picture, one(1, 1, 5, 5).filter(1.0))
    np.testing.assert_array_equal(drawn, picture)
    assert not np.shares_memory(drawn, picture)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3000, 4000)])
def test_pictures_of_any_size_are_drawn_into(size: tuple[int, int]) -> None:
    drawn = draw(np.full((*size, 3), 60, np.uint8), one(0, 0, size[1], size[0]))
    assert drawn.shape == (*size, 3)
    assert np.any(drawn != 60)


def test_box_without_an_area_is_no_problem() -> None:
    draw(np.zeros((50, 50, 3), np.uint8), one(50, 50, 50, 50, name=""))


@pytest.mark.parametrize("box", [(0, 0, 40, 30), (360, 0, 400, 30), (360, 270, 400, 300)])
def test_label_at_the_rim_is_whole(box: tuple[float, ...]) -> None:
    def letters(drawn: np.ndarray) -> int:
        return int((drawn > 180).all(axis=2).sum())

    picture = np.zeros((300, 400, 3), np.uint8)
    assert letters(draw(picture, one(*box))) == letters(draw(picture, one(180, 140, 220, 170))) > 50
