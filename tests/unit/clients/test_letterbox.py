"""The letterbox is Ultralytics', pixel for pixel and box for box."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.data.augment import LetterBox
from ultralytics.utils.ops import scale_boxes

from clients.images import ChannelOrder
from clients.letterbox import GREY, Letterbox, letterbox

IMAGES = [(1, 1), (1, 7), (9, 1), (1, 3000), (3000, 1), (480, 640), (640, 480), (641, 639), (333, 777), (1080, 1920)]
IMAGES += [(640, 640), (320, 320), (639, 640), (64, 64), (13, 640), (640, 13), (2, 2)]
INPUTS = [(640, 640), (320, 320), (384, 640), (640, 384), (32, 32), (96, 64)]
image_sides = st.integers(1, 400)
input_sides = st.sampled_from([32, 64, 96, 160, 320])


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def of_ultralytics(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    return np.asarray(LetterBox(size_hw, auto=False, center=True, scaleup=True)(image=image.copy()))


@pytest.mark.parametrize("image_hw", IMAGES)
@pytest.mark.parametrize("size_hw", INPUTS)
@pytest.mark.parametrize("order", ChannelOrder)
def test_pixels_equal_those_of_ultralytics(
    image_hw: tuple[int, int], size_hw: tuple[int, int], order: ChannelOrder
) -> None:
    rgb = noise(*image_hw, 3)
    given_pixels = rgb if order is ChannelOrder.RGB else np.ascontiguousarray(rgb[:, :, ::-1])
    fitted, _ = letterbox(given_pixels, size_hw, order=order)
    np.testing.assert_array_equal(fitted, of_ultralytics(rgb, size_hw))


@settings(max_examples=150, deadline=None)
@given(
    image_hw=st.tuples(image_sides, image_sides),
    size_hw=st.tuples(input_sides, input_sides),
    order=st.sampled_from(ChannelOrder),
    seed=st.integers(0, 2**16),
)
def test_pixels_equal_those_of_ultralytics_at_any_size(
    image_hw: tuple[int, int], size_hw: tuple[int, int], order: ChannelOrder, seed: int
) -> None:
    rgb = noise(*image_hw, 3, seed=seed)
    # Into a slice of a batch full of other pixels, from a view of a larger picture: as a detector uses it.
    batch = noise(3, *size_hw, 3, seed=seed + 1)
    neighbours = batch[[0, 2]].copy()
    large = noise(image_hw[0] + 5, image_hw[1] + 7, 3, seed=seed + 2)
    view = large[2 : 2 + image_hw[0], 3 : 3 + image_hw[1]]
    view[...] = rgb if order is ChannelOrder.RGB else rgb[:, :, ::-1]
    fitted, _ = letterbox(view, size_hw, batch[1], order=order)
    assert np.shares_memory(fitted, batch)
    np.testing.assert_array_equal(batch[1], of_ultralytics(rgb, size_hw))
    np.testing.assert_array_equal(batch[[0, 2]], neighbours)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("fitted_hw", [(36, 64), (64, 20), (64, 64), (1, 64), (33, 64)])
@pytest.mark.parametrize("order", ChannelOrder)
def test_whole_factors_equal_ultralytics(factor: int, fitted_hw: tuple[int, int], order: ChannelOrder) -> None:
    rgb = noise(fitted_hw[0] * factor, fitted_hw[1] * factor, 3)
    for size_hw in ((64, 64), (640, 640)):
        for image in (rgb, rgb[:, :-1], rgb[:-1], np.pad(rgb, ((0, 0), (0, 1), (0, 0)), mode="edge")):
            given_pixels = image if order is ChannelOrder.RGB else np.ascontiguousarray(image[:, :, ::-1])
            fitted, _ = letterbox(given_pixels, size_hw, order=order)
            np.testing.assert_array_equal(fitted, of_ultralytics(np.ascontiguousarray(image), size_hw))


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[::2, ::3], np.s_[:, :, ::-1]])
@pytest.mark.parametrize("order", ChannelOrder)
def test_any_view_may_be_given(view: object, order: ChannelOrder) -> None:
    image = noise(90, 120, 3)[view]  # type: ignore[index]
    for size_hw in ((64, 64), (320, 320), image.shape[:2]):
        expected = letterbox(np.ascontiguousarray(image), size_hw, order=order)[0]
        np.testing.assert_array_equal(letterbox(image, size_hw, order=order)[0], expected)


def test_picture_is_not_changed() -> None:
    for size_hw in ((32, 32), (64, 96), (640, 640)):
        image = noise(64, 96, 3)
        image.flags.writeable = False
        for order in ChannelOrder:
            letterbox(image, size_hw, order=order)
        np.testing.assert_array_equal(image, noise(64, 96, 3))


def test_borders_are_grey_and_the_odd_pixel_goes_to_the_far_side() -> None:
    fitted, box = letterbox(np.zeros((33, 64, 3), np.uint8), (64, 64))
    assert (box.pad_top, box.pad_left, box.resized_hw) == (15, 0, (33, 64))
    assert np.all(fitted[:15] == GREY)
    assert np.all(fitted[15:48] == 0)
    assert np.all(fitted[48:] == GREY)


@pytest.mark.parametrize("out", [np.empty((64, 64, 4), np.uint8), np.empty((64, 64, 3), np.float32)])
def test_output_of_another_kind_is_refused(out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected out to be uint8"):
        letterbox(noise(8, 8, 3), (64, 64), out)


boxes = st.lists(st.tuples(*[st.floats(-50, 700, width=32)] * 4), max_size=20).map(
    lambda rows: np.array(rows, np.float32).reshape(-1, 4)
)


@settings(max_examples=300, deadline=None)
@given(
    image_hw=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    size_hw=st.tuples(input_sides, input_sides),
    boxes_xyxy=boxes,
)
def test_boxes_equal_those_of_ultralytics(
    image_hw: tuple[int, int], size_hw: tuple[int, int], boxes_xyxy: np.ndarray
) -> None:
    given_boxes = boxes_xyxy.copy()
    mapped = Letterbox.fit(image_hw, size_hw).boxes_to_image(boxes_xyxy)
    np.testing.assert_array_equal(mapped, scale_boxes(size_hw, boxes_xyxy.copy(), image_hw))
    np.testing.assert_array_equal(boxes_xyxy, given_boxes)
    assert mapped.dtype == np.float32


@settings(max_examples=200, deadline=None)
@given(
    image_hw=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    size_hw=st.tuples(input_sides, input_sides),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_box_goes_into_the_input_and_back(
    image_hw: tuple[int, int], size_hw: tuple[int, int], corners: tuple[float, ...]
) -> None:
    height, width = image_hw
    x1, x2 = sorted(corners[:2])
    y1, y2 = sorted(corners[2:])
    box_xyxy = np.array([[x1 * width, y1 * height, x2 * width, y2 * height]])
    box = Letterbox.fit(image_hw, size_hw)
    pad = np.array([box.pad_left, box.pad_top] * 2)
    in_input = (box_xyxy * np.array(box.scale_xy * 2) + pad).astype(np.float32)
    assert np.all(in_input >= 0)
    assert np.all(in_input <= np.array([size_hw[1], size_hw[0]] * 2))
    # Half of one float32 step at the input's far end, in picture pixels.
    tolerance = 2 * np.spacing(np.float32(max(size_hw))) / min(box.scale_xy)
    np.testing.assert_allclose(box.boxes_to_image(in_input), box_xyxy, atol=tolerance, rtol=1e-6)


def test_boxes_beyond_the_picture_are_clipped_to_it() -> None:
    box = Letterbox.fit((100, 200), (64, 64))
    mapped = box.boxes_to_image(np.array([[-10, -10, 500, 500], [0, 0, 64, 10]], np.float32))
    np.testing.assert_array_equal(mapped, [[0, 0, 200, 100], [0, 0, 200, 0]])
