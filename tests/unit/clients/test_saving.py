"""Annotated pictures never replace a source or one another."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from clients.errors import ClientError
from clients.saving import PictureFolder

PICTURE = np.full((8, 9, 3), 200, np.uint8)


def source(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"source " + str(path).encode())
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", "a.jpg"),
        ("a.JPG", "a.jpg"),
        ("a.webp", "a.webp"),
        ("a.tiff", "a.tiff"),
        ("a", "a.png"),
        ("a.heic", "a.png"),
    ],
)
def test_picture_keeps_its_format_or_becomes_png(tmp_path: Path, name: str, expected: str) -> None:
    image = source(tmp_path / "in" / name)
    saved = PictureFolder(tmp_path / "deep" / "out", [image]).save(image, PICTURE)
    assert saved == tmp_path / "deep" / "out" / expected
    assert cv2.imread(str(saved)).shape == PICTURE.shape


def test_sources_of_the_same_name_get_pictures_of_their_own(tmp_path: Path) -> None:
    images = [source(tmp_path / folder / name) for folder, name in (("x", "a.png"), ("y", "a.png"), ("z", "A.png"))]
    folder = PictureFolder(tmp_path / "out", images)
    names = [folder.save(image, PICTURE).name for image in images]
    assert names == ["a.png", "a-2.png", "A-3.png"]


def test_source_is_never_overwritten(tmp_path: Path) -> None:
    images = [source(tmp_path / "a.png"), source(tmp_path / "a-2.png")]
    folder = PictureFolder(tmp_path, images)
    before = [image.read_bytes() for image in images]
    saved = [folder.save(image, PICTURE).name for image in images]
    assert [image.read_bytes() for image in images] == before
    assert saved == ["a-3.png", "a-2-2.png"]


def test_source_under_another_name_is_never_overwritten(tmp_path: Path) -> None:
    original = source(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    os.link(original, tmp_path / "out" / "a.png")
    before = original.read_bytes()
    assert PictureFolder(tmp_path / "link", [original]).save(original, PICTURE).name == "a-2.png"
    assert original.read_bytes() == before


def test_picture_of_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    image = source(tmp_path / "in" / "a.png")
    for _ in range(2):
        PictureFolder(tmp_path / "out", [image]).save(image, PICTURE)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    image = source(tmp_path / "in" / "a.png")
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    with pytest.raises(ClientError, match=r"cannot write .*a\.png"):
        PictureFolder(tmp_path / "out", [image]).save(image, PICTURE)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_picture_that_the_format_cannot_hold_is_an_error(tmp_path: Path) -> None:
    image = source(tmp_path / "in" / "a.webp")
    with pytest.raises(ClientError, match=r"cannot write .*a\.webp"):
        PictureFolder(tmp_path / "out", [image]).save(image, np.zeros((2, 20000, 3), np.uint8))
    assert list((tmp_path / "out").iterdir()) == []


def test_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="cannot save to"):
        PictureFolder(source(tmp_path / "file"), [])
