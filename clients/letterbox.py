"""Fit a picture into the model's input, and bring boxes back.

The geometry and the pixels are those of Ultralytics' LetterBox(auto=False, center=True, scaleup=True), bit for bit: the
model was trained on them, and its accuracy was measured with them.

Legend: H height, W width, C three channels, N boxes, 4 = x1 y1 x2 y2.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.images import ChannelOrder

GREY = 114
"""What surrounds the picture, as in training."""
SAMPLED = frozenset({3, 5, 7})
"""Whole factors by which linear interpolation reads one pixel and no other."""

_scratch = threading.local()


@dataclass(frozen=True, kw_only=True, slots=True)
class Letterbox:
    """Where a picture of one size lies in an input of another."""

    image_hw: tuple[int, int]
    """The picture's own size in pixels."""
    size_hw: tuple[int, int]
    """The size of the input in pixels."""
    resized_hw: tuple[int, int]
    """The size of the picture inside the input; each side is at least 1."""
    pad_top: int
    """Rows of grey above the picture."""
    pad_left: int
    """Columns of grey on its left."""

    @classmethod
    def fit(cls, image_hw: tuple[int, int], size_hw: tuple[int, int]) -> Letterbox:
        """Place a picture of ``image_hw`` pixels in the middle of ``size_hw`` pixels, as large as fits."""
        ratio = min(size_hw[0] / image_hw[0], size_hw[1] / image_hw[1])
        height, width = (max(round(side * ratio), 1) for side in image_hw)
        return cls(
            image_hw=image_hw,
            size_hw=size_hw,
            resized_hw=(height, width),
            # 0.1 sends the odd pixel of an uneven border to the far side, as LetterBox does.
            pad_top=round((size_hw[0] - height) / 2 - 0.1),
            pad_left=round((size_hw[1] - width) / 2 - 0.1),
        )

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Input pixels per picture pixel; x and y differ by the rounding of the sides."""
        return self.resized_hw[1] / self.image_hw[1], self.resized_hw[0] / self.image_hw[0]

    def boxes_to_image(self, boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes in the picture's own pixels, clipped to it, from boxes in input pixels; float32 [N, 4] both.

        Equal to ``ultralytics.utils.ops.scale_boxes``.
        """
        pad = np.array([self.pad_left, self.pad_top] * 2, np.float32)
        scale = np.array(self.scale_xy * 2, np.float32)
        height, width = self.image_hw
        boxes: NDArray[np.float32] = (boxes_xyxy - pad) / scale
        np.clip(boxes, 0, np.array([width, height] * 2, np.float32), out=boxes)
        return boxes


def letterbox(
    image_HWC: NDArray[np.uint8],
    size_hw: tuple[int, int],
    out: NDArray[np.uint8] | None = None,
    *,
    order: ChannelOrder = ChannelOrder.RGB,
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Resize a picture into an RGB input of ``size_hw`` pixels with grey borders.

    ``image_HWC`` is uint8 [H, W, 3] with its channels in ``order``. ``out``, uint8 [H, W, 3] of ``size_hw``, is written
    in place when given (a slice of a batch, say), which saves copying the pixels again; otherwise a new array is made.
    Nothing else of a picture's size is allocated after a thread's first picture.
    """
    import cv2

    box = Letterbox.fit((image_HWC.shape[0], image_HWC.shape[1]), size_hw)
    input_HWC: NDArray[np.uint8] = np.empty((*size_hw, 3), np.uint8) if out is None else out
    if input_HWC.shape != (*size_hw, 3) or input_HWC.dtype != np.uint8:
        raise ValueError(f"expected out to be uint8 {(*size_hw, 3)}, got {input_HWC.dtype} {input_HWC.shape}")

    (height, width), top, left = box.resized_hw, box.pad_top, box.pad_left
    input_HWC[:top] = GREY
    input_HWC[top + height :] = GREY
    input_HWC[top : top + height, :left] = GREY
    input_HWC[top : top + height, left + width :] = GREY
    target_HWC = input_HWC[top : top + height, left : left + width]

    same_size = box.image_hw == box.resized_hw
    if order is ChannelOrder.RGB:
        if same_size:
            target_HWC[...] = image_HWC
        else:
            _resize(image_HWC, target_HWC)
    elif same_size:
        cv2.cvtColor(image_HWC, cv2.COLOR_BGR2RGB, dst=target_HWC)
    elif image_HWC.size > target_HWC.size:
        # Channels are resized one by one, so their order does not matter to the result: swap on the smaller side.
        resized_HWC = _scratch_like(target_HWC.shape)
        _resize(image_HWC, resized_HWC)
        cv2.cvtColor(resized_HWC, cv2.COLOR_BGR2RGB, dst=target_HWC)
    else:
        image_RGB = _scratch_like(image_HWC.shape)
        cv2.cvtColor(image_HWC, cv2.COLOR_BGR2RGB, dst=image_RGB)
        _resize(image_RGB, target_HWC)
    return input_HWC, box


def _resize(image_HWC: NDArray[np.uint8], out_HWC: NDArray[np.uint8]) -> None:
    """By linear interpolation, into an array of the size that is wanted."""
    import cv2

    height, width = out_HWC.shape[:2]
    factor, rest = divmod(image_HWC.shape[1], width)
    if not rest and factor in SAMPLED and image_HWC.shape[0] == factor * height:
        # A full HD frame in 640 pixels, say: the middle of every three is all that has a weight, in half the time.
        middle_HWC = image_HWC[factor // 2 :, factor // 2 :]
        cv2.resize(middle_HWC, None, out_HWC, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_NEAREST)
    else:
        cv2.resize(image_HWC, (width, height), dst=out_HWC, interpolation=cv2.INTER_LINEAR)


def _scratch_like(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Room for a picture no larger than the input, kept by the thread for its next one."""
    size = math.prod(shape)
    kept: NDArray[np.uint8] | None = getattr(_scratch, "pixels", None)
    if kept is None or kept.size < size:
        kept = _scratch.pixels = np.empty(size, np.uint8)
    return kept[:size].reshape(shape)
