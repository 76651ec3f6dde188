"""From an image, in any form that a caller has it, to 8-bit pixels.

Encoded images go through Pillow, not OpenCV: OpenCV fills what a truncated file lacks with grey and reports nothing.
Only five of Pillow's decoders are ever tried, chosen by the file's first bytes, since an image may come from anyone.

Legend: H height, W width, C three channels.
"""

from __future__ import annotations

import enum
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clients.errors import ImageError, one_line

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

MAX_PIXELS = 178_000_000
"""Larger images are refused by their header: decoding takes 7 bytes a pixel. Pillow's own decoders of TIFF and WebP
refuse beyond twice Image.MAX_IMAGE_PIXELS, 178.9 megapixels by default; below that, every format has the same limit."""

FORMATS = "JPEG, PNG, WebP, BMP or TIFF"

_ORIENTATION_TAG = 0x0112


class ChannelOrder(enum.StrEnum):
    """The order of the three colour channels."""

    RGB = "rgb"
    BGR = "bgr"


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """A decoded picture."""

    array_HWC: NDArray[np.uint8]
    """uint8 [H, W, 3]; it may be a view into the caller's array."""
    order: ChannelOrder

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.array_HWC.shape[0])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.array_HWC.shape[1])

    def rgb(self) -> NDArray[np.uint8]:
        """The picture as a contiguous RGB array, copied only where it is not one already."""
        return self._in_order(ChannelOrder.RGB)

    def bgr(self) -> NDArray[np.uint8]:
        """The picture as a contiguous BGR array, copied only where it is not one already."""
        return self._in_order(ChannelOrder.BGR)

    def _in_order(self, order: ChannelOrder) -> NDArray[np.uint8]:
        if self.order is order:
            return np.ascontiguousarray(self.array_HWC)
        import cv2

        return np.asarray(cv2.cvtColor(self.array_HWC, cv2.COLOR_BGR2RGB), dtype=np.uint8)


ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8] | Pixels"
"""A path, the bytes of an encoded image, a BGR, BGRA or grey uint8 array as OpenCV reads it, or decoded pixels."""


def load_decoders() -> None:
    """Import what decodes and resizes pictures, 50 to 100 ms that the first picture would pay for otherwise."""
    import cv2  # noqa: F401

    _decoder(b"")


def read_image(source: ImageSource) -> NDArray[np.uint8]:
    """Read an image as contiguous RGB pixels, uint8 [H, W, 3].

    See :func:`read_pixels` for what is accepted and how it is converted.
    """
    return read_pixels(source).rgb()


def read_pixels(source: ImageSource) -> Pixels:
    """Read an image, leaving its channels in the order in which they come.

    Encoded images (JPEG, PNG, WebP, BMP, TIFF) are turned upright by their EXIF orientation; of several pictures in
    one file the first is read. Grey is repeated over three channels, 16 bits become 8 by their high byte, palettes and
    CMYK are converted, colour profiles are not applied, and alpha is dropped, not blended: all as ``cv2.imread`` does.

    Raises ImageError for anything that is not one whole image of at most MAX_PIXELS pixels.
    """
    match source:
        case Pixels():
            return source
        case np.ndarray():
            array_HWC = _bgr_from_array(source)
            if array_HWC.strides[2] == -1:
                # An RGB picture with its channels turned round, image[..., ::-1]: as it lies in memory it is no copy.
                return Pixels(array_HWC[..., ::-1], ChannelOrder.RGB)
            return Pixels(array_HWC, ChannelOrder.BGR)
        case bytes() | bytearray() | memoryview():
            return _read_encoded(io.BytesIO(source), _name_of(source))
        case str() | os.PathLike():
            return _read_file(Path(source))
    raise ImageError(
        f"cannot read an image from {type(source).__name__}: give a path, encoded bytes, or a BGR uint8 array"
    )


def encoded_size(encoded: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Height and width of an encoded image as its header has them: not turned upright, and nothing is decoded.

    Raises ImageError for what has no header of an image of at most MAX_PIXELS pixels.
    """
    with _opened(io.BytesIO(encoded), _name_of(encoded)) as image:
        return image.height, image.width


def _name_of(encoded: bytes | bytearray | memoryview) -> str:
    return f"encoded image of {memoryview(encoded).nbytes} bytes"


def _bgr_from_array(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    if array.dtype != np.uint8:
        raise ImageError(
            f"expected a uint8 array with values 0 to 255, got {array.dtype} of shape {array.shape}: convert it first"
        )
    if 0 in array.shape:
        raise ImageError(f"expected an image of at least 1x1 pixels, got an empty array of shape {array.shape}")
    match array.shape:
        case (_, _, 3):
            return array
        case (_, _) | (_, _, 1):
            return np.asarray(cv2.cvtColor(array, cv2.COLOR_GRAY2BGR), dtype=np.uint8)
        case (_, _, 4):
            return np.asarray(cv2.cvtColor(array, cv2.COLOR_BGRA2BGR), dtype=np.uint8)
    raise ImageError(
        f"expected an array [H, W, 3] (BGR), [H, W, 4] (BGRA) or [H, W] (grey), got shape {array.shape}: "
        "give several images as a list to detect_batch"
    )


def _read_file(path: Path) -> Pixels:
    name = str(path)
    try:
        if path.is_dir():
            raise ImageError(f"{name}: expected an image file, got a directory: name its files, as in {path / '*.jpg'}")
        with path.open("rb") as file:
            # A pipe, as in <(curl ...), cannot be rewound, and the decoders seek.
            return _read_encoded(file if file.seekable() else io.BytesIO(file.read()), name)
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name}: cannot be read ({one_line(error)})") from error


def _read_encoded(file: IO[bytes], name: str) -> Pixels:
    with _opened(file, name) as image:
        image.load()
        return Pixels(_upright(_rgb(image, name), _orientation(image)), ChannelOrder.RGB)


@contextmanager
def _opened(file: IO[bytes], name: str) -> Iterator[ImageFile]:
    """The image with its header read, by the one decoder that the first bytes name; ``name`` opens every message."""
    head = file.read(12)
    file.seek(0)
    if not head:
        raise ImageError(f"{name}: the file is empty")
    plugin = _decoder(head)
    if plugin is None:
        raise ImageError(f"{name}: not an image that can be read: expected {FORMATS}, got a file that starts {head!r}")
    try:
        # The decoder's class, not Image.open: that one warns or raises by Image.MAX_IMAGE_PIXELS, which is the
        # application's own setting, and a library must not change it, least of all between threads.
        with plugin(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError(
                    f"{name}: {image.width}x{image.height} pixels are more than the limit of "
                    f"{MAX_PIXELS // 1_000_000} megapixels: scale the image down or cut it into tiles"
                )
            yield image
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{name}: too large for the memory of this machine: scale the image down") from error
    except Exception as error:
        # Pillow's decoders raise a dozen kinds of exception for damaged files (OSError, SyntaxError, struct.error,
        # zlib.error, KeyError ...), and add to them from one release to the next.
        raise ImageError(
            f"{name}: the image is truncated or damaged ({one_line(error) or type(error).__name__})"
        ) from error


def _decoder(head: bytes) -> Callable[[IO[bytes]], ImageFile] | None:
    from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

    if head.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if head.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImagePlugin.TiffImageFile
    return None


def _rgb(image: ImageFile, name: str) -> NDArray[np.uint8]:
    """The loaded picture as uint8 [H, W, 3], not yet turned upright."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255, so that everything but the deepest shadows turns white.
        grey_HW = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey_HW[:, :, None], 3, axis=2)
    if image.mode in {"I", "F"}:
        raise ImageError(
            f"{name}: expected 8 or 16 bits per channel, got 32: scale the values to 0..255 and save as PNG"
        )
    if image.mode == "RGB":
        return np.asarray(image)
    if image.mode in {"P", "PA", "RGBa"}:
        # Straight to RGB, Pillow warns of a palette with transparency, and premultiplied alpha has no way.
        return np.asarray(image.convert("RGBA").convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _orientation(image: ImageFile) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        # The picture itself is whole: a damaged EXIF block says nothing of which side is up.
        return 1


def _upright(pixels_HWC: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn by the EXIF orientation, 1 to 8 (CIPA DC-008, tag 0x0112); any other value means upright already."""
    turned = pixels_HWC.swapaxes(0, 1) if orientation in {5, 6, 7, 8} else pixels_HWC
    if orientation in {2, 3, 6, 7}:
        turned = turned[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        turned = turned[::-1]
    return np.ascontiguousarray(turned)
