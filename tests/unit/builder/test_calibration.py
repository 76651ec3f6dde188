from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from builder.calibration import MINIMUM, calibration_batches, choose_calibration
from builder.dataset import DataImage, DataSplit, read_folder
from builder.errors import DataError
from clients.images import read_image
from clients.letterbox import letterbox

SIZE = (64, 96)


def write_images(folder: Path, count: int, *, first: int = 0) -> list[Path]:
    """Different small pictures of two shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(first, first + count):
        path = folder / f"{i:04d}.png"
        shape = (20, 30, 3) if i % 2 else (30, 20, 3)
        cv2.imwrite(str(path), np.random.default_rng(i).integers(0, 256, shape, np.uint8))
        paths.append(path)
    return paths


def labelled(paths: list[Path], classes: list[list[int]]) -> DataSplit:
    images = tuple(
        DataImage(path=path, classes_N=np.array(numbers, np.int64), boxes_N4=np.zeros((len(numbers), 4)))
        for path, numbers in zip(paths, classes, strict=True)
    )
    return DataSplit(source=Path("data.yaml"), split="train", names=("a", "b", "c"), images=images)


def test_the_draw_depends_on_the_seed_alone(tmp_path: Path) -> None:
    write_images(tmp_path, 40)
    data = read_folder(tmp_path)
    first, again, other = (choose_calibration(data, SIZE, 10, seed, minimum=4) for seed in (0, 0, 1))
    assert first == again
    assert len(set(first.images)) == 10
    assert set(first.images) != set(other.images)
    assert first.sha256 != other.sha256


def test_rare_classes_are_among_the_images(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 60)
    # 50 images of class 0, 6 of class 1, 2 of class 2, 2 of nothing
    data = labelled(paths, [[0]] * 50 + [[1, 0]] * 6 + [[2]] * 2 + [[]] * 2)
    chosen = choose_calibration(data, SIZE, 16, minimum=4)
    numbers = [paths.index(path) for path in chosen.images]
    assert sum(50 <= n < 56 for n in numbers) >= 5
    assert {56, 57, 58, 59} <= set(numbers)
    assert len(set(numbers)) == 16


def test_unreadable_images_are_named_and_replaced(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 30)
    for path in paths[::3]:
        path.write_bytes(path.read_bytes()[:100])
    paths[1].write_bytes(b"")
    chosen = choose_calibration(read_folder(tmp_path), SIZE, 25, minimum=4)
    assert len(chosen.images) == 19
    assert not {*paths[::3], paths[1]} & set(chosen.images)
    assert len(chosen.unreadable) == 11
    assert any(str(paths[1]) in reason and "empty" in reason for reason in chosen.unreadable)


def test_too_few_readable_images_are_refused_with_the_reasons(tmp_path: Path) -> None:
    paths = write_images(tmp_path, MINIMUM + 1)
    assert len(choose_calibration(read_folder(tmp_path), SIZE).images) == MINIMUM + 1
    for path in paths[:5]:
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=f"expected at least {MINIMUM} .* {MINIMUM - 4} can be read and 5 cannot") as e:
        choose_calibration(read_folder(tmp_path), SIZE)
    assert "and 2 more" in str(e.value)
    with pytest.raises(DataError, match="8 were asked for"):
        choose_calibration(read_folder(tmp_path), SIZE, 8)


def test_the_hash_is_of_the_pixels_and_their_place_not_of_names(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "a", 8)
    (tmp_path / "b").mkdir()
    for i, path in enumerate(paths):
        (tmp_path / "b" / f"{9 - i}.png").write_bytes(path.read_bytes())
    here, there, larger = (
        choose_calibration(read_folder(tmp_path / name), size, 8, minimum=8)
        for name, size in (("a", SIZE), ("b", SIZE), ("a", (96, 96)))
    )
    assert here.sha256 == there.sha256 != larger.sha256
    write_images(tmp_path / "a", 1, first=100)
    (tmp_path / "a" / "0000.png").unlink()
    assert choose_calibration(read_folder(tmp_path / "a"), SIZE, 8, minimum=8).sha256 != here.sha256


def test_batches_are_what_a_client_would_send(tmp_path: Path) -> None:
    write_images(tmp_path, 7)
    chosen = choose_calibration(read_folder(tmp_path), SIZE, 7, minimum=4)
    batches = list(calibration_batches(chosen, 3))
    assert [b.shape for b in batches] == [(3, 3, *SIZE), (3, 3, *SIZE), (1, 3, *SIZE)]
    assert {b.dtype for b in batches} == {np.dtype(np.float32)}
    for path, pixels_3HW in zip(chosen.images, np.concatenate(batches), strict=True):
        sent_HW3 = letterbox(read_image(path), SIZE)[0]
        np.testing.assert_array_equal(np.rint(pixels_3HW.transpose(1, 2, 0) * 255).astype(np.uint8), sent_HW3)


def test_an_image_that_vanishes_is_an_error(tmp_path: Path) -> None:
    write_images(tmp_path, 4)
    chosen = choose_calibration(read_folder(tmp_path), SIZE, 4, minimum=4)
    chosen.images[2].unlink()
    with pytest.raises(DataError, match=r"has changed .*no such file"):
        list(calibration_batches(chosen))
