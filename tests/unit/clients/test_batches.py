"""Images become requests of the right size, and answers go back to their images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.batches import batch_of_one, batches
from clients.contract import Contract
from clients.errors import ContractError, ImageError
from clients.letterbox import letterbox

CONTRACT = Contract(model="shapes", version="", size_hw=(64, 96), names=("a", "b"), max_batch_size=4, max_detections=10)


def pictures(count: int) -> list[np.ndarray]:
    dice = np.random.default_rng(5)
    return [dice.integers(0, 256, (20 + 7 * index, 90 - 5 * index, 3), np.uint8) for index in range(count)]


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1]), (9, [4, 4, 1])])
def test_images_are_sent_in_chunks_of_the_largest_batch(count: int, sizes: list[int]) -> None:
    made = list(batches(pictures(count), CONTRACT))
    assert [len(batch.images_BHWC) for batch in made] == sizes
    inputs = [image for batch in made for image in batch.images_BHWC]
    for image, picture in zip(inputs, pictures(count), strict=True):
        np.testing.assert_array_equal(image, letterbox(picture[:, :, ::-1], CONTRACT.size_hw)[0])


def test_request_is_one_contiguous_block() -> None:
    batch = next(batches(pictures(3), CONTRACT))
    assert batch.images_BHWC.flags.c_contiguous
    assert batch.images_BHWC.dtype == np.uint8
    assert batch.images_BHWC.shape == (3, 64, 96, 3)


def test_images_are_read_only_when_their_request_is_made() -> None:
    read = []

    def source() -> Iterator[np.ndarray]:
        for index, picture in enumerate(pictures(9)):
            read.append(index)
            yield picture

    made = batches(source(), CONTRACT)
    next(made)
    assert read == [0, 1, 2, 3]


def test_bad_image_is_named_by_its_index(tmp_path: Path) -> None:
    sources: list[Any] = [*pictures(6), tmp_path / "absent.jpg"]
    made = batches(sources, CONTRACT)
    assert len(next(made).letterboxes) == 4
    with pytest.raises(ImageError, match=r"^image 6: .*absent\.jpg: no such file"):
        next(made)


def test_single_bad_image_is_named_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^/.*absent\.jpg: no such file"):
        batch_of_one(tmp_path / "absent.jpg", CONTRACT)


@pytest.mark.parametrize("single", ["street.jpg", Path("street.jpg"), b"\xff\xd8\xff", np.zeros((4, 4, 3), np.uint8)])
def test_one_image_is_not_taken_for_several(single: Any) -> None:
    with pytest.raises(ImageError, match="expected several images, got one"):
        next(batches(single, CONTRACT))


def test_stack_of_images_may_be_given() -> None:
    stack = np.zeros((3, 20, 30, 3), np.uint8)
    assert [len(batch.letterboxes) for batch in batches(stack, CONTRACT)] == [3]


def test_answers_go_back_to_their_images() -> None:
    images = [np.zeros((64, 96, 3), np.uint8), np.zeros((128, 192, 3), np.uint8)]
    batch = next(batches(images, CONTRACT))
    rows = np.zeros((2, 10, 6), np.float32)
    rows[0, 0] = [1, 2, 3, 4, 0.9, 0]
    rows[1, 0] = [1, 2, 3, 4, 0.8, 1]
    rows[1, 1] = [0, 0, 96, 64, 0.1, 1]
    first, second = batch.detections(rows, 0.25)
    assert first.xyxy.tolist() == [[1, 2, 3, 4]]
    assert second.xyxy.tolist() == [[2, 4, 6, 8]]
    assert second.names == ("a", "b")


@pytest.mark.parametrize("shape", [(2, 10, 6), (1, 300, 6), (1, 10, 7), (10, 6)])
def test_answer_of_another_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match=r"answered with shape .*expected \[1, 10, 6\]"):
        batch_of_one(pictures(1)[0], CONTRACT).detections(np.zeros(shape, np.float32), 0.25)
