"""A frame on its way, and the pixels that are made of it only when it is sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from clients.errors import ImageError, one_line
from clients.images import MAX_PIXELS, ChannelOrder, Pixels, read_pixels

if TYPE_CHECKING:
    import av


class Picture(Protocol):
    """What pixels can be made of."""

    def pixels(self) -> Pixels:
        """The pixels, upright; raises ImageError."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A picture that is read when it is needed."""

    path: Path

    def pixels(self) -> Pixels:
        """As ``clients.images`` reads it."""
        return read_pixels(self.path)


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame as the decoder left it: most often YUV, half the size of RGB."""

    frame: av.VideoFrame

    def pixels(self) -> Pixels:
        """Converted to RGB and turned as the video says."""
        frame = self.frame
        if frame.width * frame.height > MAX_PIXELS:
            raise ImageError(f"frame of {frame.width}x{frame.height} pixels, expected at most {MAX_PIXELS}")
        try:
            array_HWC = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
        except (OSError, ValueError) as error:
            raise ImageError(f"frame of {frame.width}x{frame.height} pixels: {one_line(error)}") from error
        # Counter-clockwise degrees, as numpy turns.
        if turns := round(frame.rotation / 90) % 4:
            array_HWC = np.ascontiguousarray(np.rot90(array_HWC, turns))
        return Pixels(array_HWC, ChannelOrder.RGB)


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One frame that was captured."""

    number: int
    """Counts the frames read from the source, from 0; those that ``--fps`` leaves out are counted too."""
    time_s: float
    """Where in the video it is; of a camera, seconds since the run began."""
    captured_s: float
    """When it was decoded, on this process's monotonic clock."""
    captured_at: float
    """The same in seconds since 1970."""
    picture: Picture
    may_be_dropped: bool
    """A live one: a newer frame is worth more."""
    file: Path | None = None
    """Which file it is from; None for a camera."""
