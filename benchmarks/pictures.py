"""The pictures that are measured with: photographs, since the time of a detector's last steps depends on what it sees.

Legend: P pictures, H height, W width, C three channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builder.errors import SpecError
from clients import ImageError, letterbox, read_image


def picture_paths(given: Sequence[Path]) -> tuple[Path, ...]:
    """The pictures asked for, or the two that come with Ultralytics.

    Raises:
        SpecError: none was asked for and Ultralytics is not installed.
    """
    from builder.stages import bundled_images

    return tuple(given) or bundled_images()


def letterboxed(paths: Sequence[Path], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """UINT8 [P, H, W, 3] RGB: the pictures as a client sends them.

    Raises:
        SpecError: one cannot be read.
    """
    try:
        return np.stack([letterbox(read_image(path), size_hw)[0] for path in paths])
    except ImageError as error:
        raise SpecError(f"--images: {error}") from error
