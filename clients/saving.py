"""Puts pictures into a folder without ever touching a source picture or another one of the same run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.errors import ClientError, one_line

_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


class PictureFolder:
    """Where the annotated pictures of one run go.

    A picture has its source's name, with "-2", "-3" ... added where that name is taken: by another source of the same
    name, or by a source that lies in this folder. Pictures of an earlier run are replaced.
    """

    def __init__(self, folder: Path, sources: Iterable[Path]) -> None:
        """Make the folder; raises ClientError where that is impossible."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClientError(f"cannot save to {folder}: {error.strerror}; name another folder (--save)") from error
        self._folder = folder
        self._sources = {identity for source in sources if (identity := _identity(source))}
        # Folded, because some file systems take "A.jpg" and "a.jpg" for the same file.
        self._taken: set[str] = set()

    def save(self, source: Path, picture_BGR: NDArray[np.uint8]) -> Path:
        """Write the picture of ``source``, whole or not at all, in its format if that can be written, else as PNG.

        Raises ClientError where it cannot be written.
        """
        import cv2

        target = self._target(source)
        try:
            is_encoded, encoded = cv2.imencode(target.suffix, picture_BGR)
        except cv2.error as error:
            raise ClientError(f"cannot write {target}: {one_line(error)}") from error
        if not is_encoded:
            height, width = picture_BGR.shape[:2]
            raise ClientError(
                f"cannot write {target}: {target.suffix} holds no {width}x{height} pixels; convert the source to PNG"
            )
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            unfinished.write_bytes(encoded.tobytes())
            unfinished.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise ClientError(f"cannot write {target}: {error.strerror}") from error
        self._taken.add(target.name.casefold())
        return target

    def _target(self, source: Path) -> Path:
        suffix = source.suffix.lower() if source.suffix.lower() in _SUFFIXES else ".png"
        target, number = self._folder / f"{source.stem}{suffix}", 1
        while target.name.casefold() in self._taken or _identity(target) in self._sources:
            number += 1
            target = self._folder / f"{source.stem}-{number}{suffix}"
        return target


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others, however it is named; None for one that does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
