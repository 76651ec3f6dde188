"""Ultralytics' label files: one object a line, the class number and a box, or a polygon that becomes one.

What is accepted is what Ultralytics' ``verify_image_label`` accepts; what it would leave out with a warning, image and
all, is an error here, since a figure for other images than those asked for is a wrong figure.

Legend: N objects, 4 = x1 y1 x2 y2 as fractions of the image's width and height.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from builder.errors import DataError

TOLERANCE = 0.01
"""How far a centre or a size may lie outside 0..1."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labels:
    """The objects of one image."""

    classes_N: NDArray[np.int64]
    boxes_N4: NDArray[np.float64]
    """Clipped to the image."""
    duplicates: int
    """Lines that repeat another; they are left out."""


NO_LABELS = Labels(classes_N=np.zeros(0, np.int64), boxes_N4=np.zeros((0, 4)), duplicates=0)


def read_labels(path: Path, classes: int, keypoint_values: int = 0) -> Labels:
    """The objects of one label file; none where there is no such file: an image of background alone.

    ``classes`` is the number of classes, ``keypoint_values`` the numbers that follow each box of a data set of poses.

    Raises:
        DataError: the file cannot be read, or a line is malformed, names a class out of range or a box outside the
            image; the message names the file and the line.
    """
    try:
        # UTF-8 with or without a byte-order mark.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return NO_LABELS
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: expected a label file, it cannot be read: {e}.") from e

    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if keypoint_values:
        lines = [(n, words[:5] if len(words) == 5 + keypoint_values else words) for n, words in lines]
    polygons = any(len(words) > 6 for _, words in lines)
    if polygons and any(len(words) == 5 for _, words in lines):
        raise DataError(f"{path}: boxes and polygons are mixed; expected 5 numbers in every line, or polygons in all.")

    seen: dict[tuple[float, ...], None] = {}
    objects: list[tuple[int, tuple[float, float, float, float]]] = []
    for number, words in lines:
        values = _numbers(words, path, number)
        if values in seen:
            continue
        seen[values] = None
        cx, cy, width, height = _box_of_polygon(values, path, number) if polygons else _box(values, path, number)
        _check_inside((cx, cy, width, height), path, number)
        objects.append(
            (
                _class(values[0], classes, path, number),
                (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2),
            )
        )
    return Labels(
        classes_N=np.array([class_id for class_id, _ in objects], np.int64),
        boxes_N4=np.clip(np.array([box for _, box in objects], np.float64).reshape(-1, 4), 0.0, 1.0),
        duplicates=len(lines) - len(objects),
    )


def _numbers(words: list[str], path: Path, line: int) -> tuple[float, ...]:
    try:
        values = tuple(map(float, words))
    except ValueError:
        _refuse(path, line, f"expected numbers, got {' '.join(words)[:60]!r}")
    if not all(map(math.isfinite, values)):
        _refuse(path, line, f"expected finite numbers, got {' '.join(words)[:60]!r}")
    return values


def _box(values: tuple[float, ...], path: Path, line: int) -> tuple[float, float, float, float]:
    if len(values) != 5:
        _refuse(path, line, f"expected 5 numbers (class, centre x, centre y, width, height), got {len(values)}")
    return values[1], values[2], values[3], values[4]


def _box_of_polygon(values: tuple[float, ...], path: Path, line: int) -> tuple[float, float, float, float]:
    if len(values) < 7 or len(values) % 2 == 0:
        _refuse(path, line, f"expected a class and x y of each corner, 3 corners or more, got {len(values)} numbers")
    xs, ys = values[1::2], values[2::2]
    x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def _class(value: float, classes: int, path: Path, line: int) -> int:
    if value != int(value):
        _refuse(path, line, f"expected a whole class number, got {value:g}")
    if not 0 <= value < classes:
        _refuse(path, line, f"class {value:g} is out of range: the data has {classes} classes, 0 to {classes - 1}")
    return int(value)


def _check_inside(box: tuple[float, float, float, float], path: Path, line: int) -> None:
    if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in box) or min(box[2:]) < 0:
        came = " ".join(f"{value:g}" for value in box)
        _refuse(
            path,
            line,
            f"the box (centre x, centre y, width, height) {came} is outside the image; expected fractions of its "
            "width and height, 0 to 1",
        )


def _refuse(path: Path, line: int, reason: str) -> NoReturn:
    raise DataError(f"{path}, line {line}: {reason}; mend the line or remove it.")
