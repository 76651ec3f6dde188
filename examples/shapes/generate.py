"""Generate the sample's data: coloured shapes on textured backgrounds, labelled for detection.

python examples/shapes/generate.py --out DIR [--train N] [--val N] [--seed S] [--size SIDE | WIDTHxHEIGHT]
python examples/shapes/generate.py --image FILE.jpg [--seed S] [--size SIDE | WIDTHxHEIGHT]

The same arguments give the same bytes. The layout is Ultralytics': ``data.yaml``, ``images/{train,val}``,
``labels/{train,val}``. Images are BGR uint8 [H, W, 3]; boxes are in pixels, from the left edge of the first pixel.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

CLASS_NAMES = ("circle", "triangle", "square", "cross", "star")
SPLITS = ("train", "val", "unseen")
"""The place of a split in this tuple is part of its random stream: no split ever repeats another's images."""

SMALLEST_PX, LARGEST_PX = 14, 200
LEAST_VISIBLE = 0.6
"""The part of a shape, the part outside the image included, that stays in sight of whoever labels it."""
LEAST_CONTRAST = 75.0
"""Distance in BGR between a shape and the mean of what it lies on."""
SUPERSAMPLING = 4
LARGEST_SIDE_PX = 4096


@dataclass(frozen=True, slots=True)
class Size:
    """An image's size in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class LabelledBox:
    """One object: its class and the box around the whole shape, clipped to the image, in pixels."""

    class_id: int
    xyxy: tuple[float, float, float, float]


class RequestError(ValueError):
    """A request that cannot be met; the message is for the user."""


def regular_polygon(corners: int) -> NDArray[np.float64]:
    """Return the corners of a regular polygon on the unit circle, [corners, 2]."""
    turns = np.arange(corners) * (2 * math.pi / corners)
    return np.stack([np.sin(turns), -np.cos(turns)], axis=1)


def _star() -> NDArray[np.float64]:
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return regular_polygon(10) * radii[:, None]


def _cross() -> NDArray[np.float64]:
    a, b = 0.30, 0.95
    quarter = np.array([(-a, -b), (a, -b), (a, -a)])
    turned = [quarter @ np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), turn) for turn in range(4)]
    return np.concatenate(turned)


OUTLINES: dict[str, NDArray[np.float64]] = {
    "circle": regular_polygon(90),
    "triangle": regular_polygon(3),
    "square": regular_polygon(4),
    "cross": _cross(),
    "star": _star(),
}
"""Class name -> corners around the origin, [K, 2]."""


def draw_image(rng: np.random.Generator, size: Size) -> tuple[NDArray[np.uint8], list[LabelledBox]]:
    """Draw one image; return it with what it shows.

    Later shapes may cover earlier ones, each of which keeps LEAST_VISIBLE of its area: a shape that would hide more
    is left out, so that every shape in sight is labelled.
    """
    canvas = _background(rng, size)
    # 3 to 25 objects at 640x640; a smaller tile holds more of them for its area, as tiles are for training.
    density = math.sqrt(size.width * size.height) / 640
    wanted = int(rng.integers(min(3, max(1, round(6 * density))), max(4, round(25 * density)) + 1))
    largest = min(LARGEST_PX, 0.45 * min(size.width, size.height))
    smallest = min(SMALLEST_PX, largest)

    owner_HW = np.full((size.height, size.width), -1, dtype=np.int32)
    areas: list[float] = []
    boxes: list[LabelledBox] = []
    for _ in range(3 * wanted):
        if len(boxes) == wanted:
            break
        class_id = int(rng.integers(len(CLASS_NAMES)))
        side = smallest * (largest / smallest) ** rng.random()
        centre = rng.random(2) * (size.width, size.height)
        if boxes and rng.random() < 0.3:
            # Shapes scattered alone seldom overlap: some are drawn to a neighbour.
            x1, y1, x2, y2 = boxes[int(rng.integers(len(boxes)))].xyxy
            reach = 0.5 * (math.hypot(x2 - x1, y2 - y1) / 2 + side / 2)
            angle = rng.random() * 2 * math.pi
            centre = np.array([(x1 + x2) / 2 + reach * math.cos(angle), (y1 + y2) / 2 + reach * math.sin(angle)])
        corners = _placed(rng, OUTLINES[CLASS_NAMES[class_id]], side, centre)
        box = _add_shape(rng, canvas, owner_HW, areas, corners)
        if box is not None:
            boxes.append(LabelledBox(class_id, box))
    return _photographed(rng, canvas), boxes


def _placed(
    rng: np.random.Generator, outline: NDArray[np.float64], side: float, centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Turn and stretch an outline so that the longer side of its box is ``side`` pixels; [K, 2]."""
    angle = rng.random() * 2 * math.pi
    stretch = np.array([1.0, 1.0 + rng.uniform(-0.15, 0.15)])
    cos, sin = math.cos(angle), math.sin(angle)
    turned = (outline * stretch) @ np.array([[cos, sin], [-sin, cos]])
    low, high = turned.min(axis=0), turned.max(axis=0)
    return (turned - (low + high) / 2) * (side / (high - low).max()) + centre


def _add_shape(
    rng: np.random.Generator,
    canvas: NDArray[np.float32],
    owner_HW: NDArray[np.int32],
    areas: list[float],
    corners: NDArray[np.float64],
) -> tuple[float, float, float, float] | None:
    """Paint one shape where it hides no other too far; return its clipped box, or None where it was left out."""
    height, width = owner_HW.shape
    left, top = np.floor(corners.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
    alpha = _coverage(corners - (left, top), right - left, bottom - top)
    area = float(alpha.sum())
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if x1 >= x2 or y1 >= y2:
        return None
    alpha = alpha[y1 - top : y2 - top, x1 - left : x2 - left]
    if float(alpha.sum()) < LEAST_VISIBLE * area:
        return None

    covered = alpha > 0.5
    owners = owner_HW[y1:y2, x1:x2]
    hidden = np.bincount(owners[covered] + 1, minlength=len(areas) + 1)[1:]
    visible = np.bincount(owner_HW.ravel() + 1, minlength=len(areas) + 1)[1:]
    if any(
        lost and left_over - lost < LEAST_VISIBLE * whole
        for lost, left_over, whole in zip(hidden, visible, areas, strict=True)
    ):
        return None
    patch = canvas[y1:y2, x1:x2]
    colour = _contrasting_colour(rng, patch[covered])
    if colour is None:
        return None
    owners[covered] = len(areas)
    areas.append(area)

    shade = np.linspace(-1, 1, x2 - x1, dtype=np.float32)[None, :, None] * np.float32(rng.uniform(-18, 18))
    opacity = np.float32(rng.uniform(0.88, 1.0)) * alpha[:, :, None]
    patch += opacity * (colour + shade - patch)
    (low_x, low_y), (high_x, high_y) = corners.min(axis=0), corners.max(axis=0)
    return max(low_x, 0.0), max(low_y, 0.0), min(high_x, float(width)), min(high_y, float(height))


def _coverage(corners: NDArray[np.float64], width: int, height: int) -> NDArray[np.float32]:
    """Return the part of each pixel that lies in the polygon, [height, width] in 0..1."""
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), dtype=np.uint8)
    # OpenCV's integer coordinates are pixel centres, ours are pixel edges; 4 bits of fraction.
    points = np.round((corners * SUPERSAMPLING - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(fine, [points], 255, shift=4)
    coarse = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return coarse.astype(np.float32) / 255


def _contrasting_colour(rng: np.random.Generator, under_N3: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Choose a colour that stands out from the pixels underneath, or None where none of a few does."""
    if not len(under_N3):
        return None
    mean = under_N3.mean(axis=0)
    for _ in range(8):
        colour = rng.uniform(10, 245, 3).astype(np.float32)
        if float(np.linalg.norm(colour - mean)) >= LEAST_CONTRAST:
            return colour
    return None


def _background(rng: np.random.Generator, size: Size) -> NDArray[np.float32]:
    """Return value noise over a gradient, with stripes on some; BGR float32 [H, W, 3] in 0..255."""
    y, x = np.mgrid[0 : size.height, 0 : size.width].astype(np.float32)
    angle = rng.random() * 2 * math.pi
    along = x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))
    ramp = (along - along.min()) / max(float(np.ptp(along)), 1.0)
    first, second = rng.uniform(30, 225, (2, 3)).astype(np.float32)
    canvas = first + ramp[:, :, None] * (second - first) * np.float32(rng.uniform(0, 0.8))

    for cell_px in (96, 32, 9):
        grid = rng.uniform(-1, 1, (size.height // cell_px + 2, size.width // cell_px + 2, 3)).astype(np.float32)
        if rng.random() < 0.5:
            grid[:] = grid[:, :, :1]
        noise = cv2.resize(grid, (size.width, size.height), interpolation=cv2.INTER_CUBIC)
        canvas += noise * np.float32(rng.uniform(0, 26))
    if rng.random() < 0.35:
        turn = rng.random() * 2 * math.pi
        across = x * np.float32(math.cos(turn)) + y * np.float32(math.sin(turn))
        waves = np.sin(across * np.float32(2 * math.pi / rng.uniform(8, 60)))
        canvas += waves[:, :, None] * rng.uniform(-22, 22, 3).astype(np.float32)
    return canvas


def _photographed(rng: np.random.Generator, canvas: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Blur and add sensor noise; uint8 [H, W, 3]."""
    if rng.random() < 0.5:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 1.0)).astype(np.float32)
    noise = rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(0, 8))
    return np.clip(canvas + noise, 0, 255).round().astype(np.uint8)


def encoded_image(seed: int, split: str, index: int, size: Size) -> tuple[bytes, list[LabelledBox]]:
    """Return one image of a split as JPEG, with what it shows; the same for the same arguments, whatever the count."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index, size.width, size.height])
    image, boxes = draw_image(rng, size)
    done, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(70, 96))])
    assert done, "OpenCV encodes any BGR uint8 image"
    return jpeg.tobytes(), boxes


def label_lines(boxes: Sequence[LabelledBox], size: Size) -> str:
    """Return Ultralytics' label text: class, then centre and size of the box as parts of the image's."""
    lines = []
    for box in boxes:
        x1, y1, x2, y2 = box.xyxy
        centre = ((x1 + x2) / 2 / size.width, (y1 + y2) / 2 / size.height)
        parts = (*centre, (x2 - x1) / size.width, (y2 - y1) / size.height)
        lines.append(f"{box.class_id} " + " ".join(f"{part:.6f}" for part in parts) + "\n")
    return "".join(lines)


def write_dataset(out: Path, counts: dict[str, int], seed: int, size: Size) -> None:
    """Write a data set to ``out``, which appears whole or not at all.

    :raises RequestError: ``out`` is there and not an empty folder.
    :raises OSError: the folder cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"--out must be a new or an empty folder, got {out}; name another or remove it first")

    def fill(partial: Path) -> None:
        partial.mkdir()
        for split, count in counts.items():
            images, labels = partial / "images" / split, partial / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for index in range(count):
                jpeg, boxes = encoded_image(seed, split, index, size)
                (images / f"{index:06d}.jpg").write_bytes(jpeg)
                (labels / f"{index:06d}.txt").write_text(label_lines(boxes, size), encoding="utf-8")
        names = "".join(f"  {class_id}: {name}\n" for class_id, name in enumerate(CLASS_NAMES))
        # Without a `path` Ultralytics takes the folder of data.yaml itself, wherever it has been moved.
        text = f"train: images/train\nval: images/val\nnames:\n{names}"
        (partial / "data.yaml").write_text(text, encoding="utf-8")

    _whole_or_not(out, fill)


def write_image(path: Path, seed: int, size: Size) -> int:
    """Write one image that no data set holds; return the number of objects on it.

    :raises OSError: the file cannot be written.
    """
    jpeg, boxes = encoded_image(seed, "unseen", 0, size)
    _whole_or_not(path, lambda partial: partial.write_bytes(jpeg))
    return len(boxes)


def _whole_or_not(target: Path, fill: Callable[[Path], object]) -> None:
    """Let ``fill`` write beside the target, then rename; whatever stops it leaves nothing behind."""
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        fill(partial)
        partial.replace(target)
    except BaseException:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        raise


def positive(text: str) -> int:
    """Return an argument that counts something.

    :raises argparse.ArgumentTypeError: it is no whole number from 1 to 999999.
    """
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 999_999:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 999999, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def _size(text: str) -> Size:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(
        side.isascii() and side.isdigit() and 64 <= int(side) <= LARGEST_SIDE_PX for side in sides
    ):
        raise argparse.ArgumentTypeError(f"expected SIDE or WIDTHxHEIGHT, 64 to {LARGEST_SIDE_PX} pixels, got {text!r}")
    return Size(int(sides[0]), int(sides[-1]))


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 after one line on stderr."""
    parser = _OneLineParser(prog="generate.py", description=(__doc__ or "").splitlines()[0])
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, metavar="DIR", help="write a data set to this new or empty folder")
    target.add_argument("--image", type=Path, metavar="FILE.jpg", help="write one image that no data set holds")
    parser.add_argument("--train", type=positive, default=1000, metavar="N", help="training images (1000)")
    parser.add_argument("--val", type=positive, default=200, metavar="N", help="validation images (200)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="S", help="seed of every random choice (0)")
    parser.add_argument("--size", type=_size, default=Size(640, 640), metavar="SIDE|WxH", help="pixels (640)")
    request = parser.parse_args(arguments)
    try:
        if request.image is None:
            write_dataset(request.out, {"train": request.train, "val": request.val}, request.seed, request.size)
            print(f"{request.out}: {request.train} training and {request.val} validation images")
        else:
            objects = write_image(request.image, request.seed, request.size)
            print(f"{request.image}: {objects} objects")
    except RequestError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot write {request.out or request.image}: {error.strerror or error}; name a writable place")
    return 0


if __name__ == "__main__":
    sys.exit(main())
