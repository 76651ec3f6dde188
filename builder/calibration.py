"""The images that INT8's scales are measured on, as the model's input: the letterbox is the clients' own.

Tensor suffixes: B images, H height, W width.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from builder.cache import file_sha256
from builder.errors import DataError
from builder.parity import to_pixels
from clients.errors import ImageError
from clients.images import read_image
from clients.letterbox import GREY, letterbox

if TYPE_CHECKING:
    from builder.dataset import DataImage, DataSplit

DEFAULT_COUNT = 512
"""ModelOpt asks for at least 500 images of a convolutional network."""
MINIMUM = 64
"""Two draws of 64 of the sample's images give scales that differ by 0.4 % in the median, of 32 by 1.1 %, of 16 by 1.7.
The sample's mAP is the same down to 8 images, but these are all of one kind; a rare class needs to be seen at all."""
_BACKGROUND = -1
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSet:
    """Readable images, chosen and in their order."""

    images: tuple[Path, ...]
    imgsz: tuple[int, int]
    """Height and width in pixels that they are letterboxed to."""
    sha256: str
    """Of the images' bytes and the letterbox' parameters; neither their order nor where they lie matters."""
    unreadable: tuple[str, ...]
    """Images that were drawn and could not be read, each with the reason; others are in their place."""


def choose_calibration(
    data: DataSplit, imgsz: tuple[int, int], count: int = DEFAULT_COUNT, seed: int = 0, minimum: int = MINIMUM
) -> CalibrationSet:
    """Draw images at random, the same for the same seed, spread over the classes where labels are known.

    Args:
        data: where to draw from.
        imgsz: height and width in pixels of the model's input.
        count: how many; all that can be read where there are fewer.
        seed: of the random draw.
        minimum: fewer readable images are refused.

    Raises:
        DataError: fewer than ``minimum`` images can be read, or asked for.
    """
    if count < minimum:
        raise DataError(f"expected at least {minimum} calibration images, {count} were asked for: ask for {minimum}.")
    images: list[Path] = []
    hashes: list[str] = []
    unreadable: list[str] = []
    spread = _Spread(data.images, seed)
    while len(images) < count and (image := spread.draw()) is not None:
        try:
            read_image(image.path)
            hashes.append(file_sha256(image.path))
        except (ImageError, OSError) as e:
            unreadable.append(str(e))
            continue
        images.append(image.path)
        spread.take(image)
    if len(images) < minimum:
        raise DataError(_too_few(data, len(images), unreadable, minimum))
    geometry = {"letterbox": "Ultralytics, centred, bilinear", "grey": GREY, "imgsz": imgsz}
    digest = hashlib.sha256(json.dumps([geometry, sorted(hashes)]).encode()).hexdigest()
    return CalibrationSet(images=tuple(images), imgsz=imgsz, sha256=digest, unreadable=tuple(unreadable))


def calibration_batches(chosen: CalibrationSet, batch: int = 1) -> Iterator[NDArray[np.float32]]:
    """The images as the network takes them, FP32 [B, 3, H, W] RGB in [0, 1]; only one batch is ever in memory.

    Raises:
        DataError: an image has gone or changed since it was chosen.
    """
    for start in range(0, len(chosen.images), batch):
        paths = chosen.images[start : start + batch]
        images_BHW3 = np.empty((len(paths), *chosen.imgsz, 3), np.uint8)
        for path, out in zip(paths, images_BHW3, strict=True):
            try:
                letterbox(read_image(path), chosen.imgsz, out)
            except ImageError as e:
                raise DataError(f"a calibration image has changed since it was chosen: {e}.") from e
        yield to_pixels(images_BHW3)


class _Spread:
    """Draws images so that the classes come as evenly as the data lets them."""

    def __init__(self, images: tuple[DataImage, ...], seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(images))
        self._queues: dict[int, deque[DataImage]] = {}
        for i in order:
            for number in _classes(images[i]):
                self._queues.setdefault(number, deque()).append(images[i])
        self._drawn: set[Path] = set()
        self._taken: Counter[int] = Counter()

    def draw(self) -> DataImage | None:
        """The next image, of the class that was taken least; None when all are drawn."""
        while self._queues:
            number = min(self._queues, key=lambda each: (self._taken[each], each))
            queue = self._queues[number]
            while queue:
                image = queue.popleft()
                if image.path not in self._drawn:
                    self._drawn.add(image.path)
                    return image
            del self._queues[number]
        return None

    def take(self, image: DataImage) -> None:
        """Count a drawn image's classes: it can be read."""
        self._taken.update(_classes(image))


def _classes(image: DataImage) -> list[int]:
    if image.classes_N is None or not len(image.classes_N):
        return [_BACKGROUND]
    return [int(number) for number in np.unique(image.classes_N)]


def _too_few(data: DataSplit, readable: int, unreadable: list[str], minimum: int) -> str:
    problem = f"{data.source}: expected at least {minimum} images to calibrate with, {readable} can be read"
    if unreadable:
        more = f" and {len(unreadable) - _SHOWN} more" if len(unreadable) > _SHOWN else ""
        problem += f" and {len(unreadable)} cannot ({'; '.join(unreadable[:_SHOWN])}{more})"
    return f"{problem}: give more images of what the model will see; INT8 without them would have arbitrary scales."
