"""Videos whose every frame says its number, and a detector that answers with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from clients.detections import Detections
from clients.images import Pixels

BITS = 12
STRIPE_PX = 16
SIZE_HW = (64, BITS * STRIPE_PX)


def numbered_picture(number: int) -> NDArray[np.uint8]:
    """RGB uint8 [64, 192, 3]: a white stripe for each bit that is set, the lowest at the left."""
    bits = [(number >> bit & 1) * 255 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8), STRIPE_PX)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (*SIZE_HW, 3)))


def number_in(picture_HWC: NDArray[np.uint8]) -> int:
    """The number of a picture that may have been through a codec."""
    middle = picture_HWC[picture_HWC.shape[0] // 2, STRIPE_PX // 2 :: STRIPE_PX, 1]
    return sum(1 << bit for bit, value in enumerate(middle[:BITS]) if value > 127)


def write_video(path: Path, pictures: Iterable[NDArray[np.uint8]], fps: int = 25, codec: str = "libx264") -> Path:
    """Write RGB pictures as a video; a key frame every second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = fps
        for number, picture in enumerate(pictures):
            if not number:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered_video(path: Path, count: int, fps: int = 25, first: int = 0) -> Path:
    """Write a video of numbered pictures."""
    return write_video(path, map(numbered_picture, range(first, first + count)), fps)


class NumberDetector:
    """Answers with one box whose left edge is the number in the picture, after ``before`` lets it."""

    names = ("number",)

    def __init__(self, before: Callable[[int], None] = lambda number: None) -> None:
        self._before = before
        self._lock = threading.Lock()
        self.asked: list[tuple[int, int]] = []
        """Number and priority of each request, as they came."""

    def detect(self, image: Pixels, confidence: float, *, priority: int) -> Detections:
        number = number_in(image.array_HWC)
        with self._lock:
            self.asked.append((number, priority))
        self._before(number)
        return Detections(
            np.array([[number, 0, number + 1, 1]], np.float32),
            np.array([0.5], np.float32),
            np.array([0], np.int64),
            self.names,
        )
