"""Requests and answers without a connection: what any detector, blocking or not, does around one call to the server.

Legend: B images of a batch, H height, W width, C three channels, N rows per image, 6 = x1 y1 x2 y2 confidence class.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.contract import Contract
from clients.detections import Detections
from clients.errors import ContractError, ImageError
from clients.images import ImageSource, Pixels, read_pixels
from clients.letterbox import Letterbox, letterbox


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Images made ready for one request, and what is needed to read its answer."""

    contract: Contract
    images_BHWC: NDArray[np.uint8]
    """uint8 [B, H, W, 3], RGB, letterboxed, contiguous: the very bytes of the request."""
    letterboxes: tuple[Letterbox, ...]

    def detections(self, rows_BN6: NDArray[np.float32], confidence: float) -> list[Detections]:
        """Read the server's answer, float32 [B, N, 6]: one Detections per image, in that image's own pixels."""
        expected = (len(self.letterboxes), self.contract.max_detections, 6)
        if rows_BN6.shape != expected:
            raise ContractError(
                f"model {self.contract.model!r} answered with shape {list(rows_BN6.shape)}, expected {list(expected)}: "
                "it has changed on the server; connect again"
            )
        return [
            Detections.from_rows(rows_N6, box, self.contract.names, confidence)
            for rows_N6, box in zip(rows_BN6, self.letterboxes, strict=True)
        ]


def batch_of_one(source: ImageSource, contract: Contract) -> Batch:
    """One image as a request; raises ImageError."""
    images_BHWC = _empty(1, contract)
    return Batch(
        contract=contract, images_BHWC=images_BHWC, letterboxes=(_place(source, images_BHWC[0], contract.size_hw),)
    )


def batches(sources: Iterable[ImageSource], contract: Contract) -> Iterator[Batch]:
    """Images as requests of at most ``contract.max_batch_size``, in order, each read only when its request is made.

    At most one picture is held at its full size. Raises ImageError with the failing image's index.
    """
    if isinstance(sources, str | os.PathLike | bytes | bytearray | memoryview | Pixels) or (
        isinstance(sources, np.ndarray) and sources.ndim < 4
    ):
        raise ImageError(f"expected several images, got one {type(sources).__name__}: put it in a list, or use detect")
    numbered = enumerate(sources)
    while chunk := list(itertools.islice(numbered, contract.max_batch_size)):
        images_BHWC = _empty(len(chunk), contract)
        letterboxes = []
        for (index, source), out_HWC in zip(chunk, images_BHWC, strict=True):
            try:
                letterboxes.append(_place(source, out_HWC, contract.size_hw))
            except ImageError as error:
                raise ImageError(f"image {index}: {error}") from error
        yield Batch(contract=contract, images_BHWC=images_BHWC, letterboxes=tuple(letterboxes))


def _empty(count: int, contract: Contract) -> NDArray[np.uint8]:
    return np.empty((count, *contract.size_hw, 3), np.uint8)


def _place(source: ImageSource, out_HWC: NDArray[np.uint8], size_hw: tuple[int, int]) -> Letterbox:
    pixels = read_pixels(source)
    return letterbox(pixels.array_HWC, size_hw, out_HWC, order=pixels.order)[1]
