"""Requests and answers without a connection: what any detector, blocking or not, does around one call to the server.

Legend: B images of a batch, H height, W width, C three channels, N rows per image, 6 = x1 y1 x2 y2 confidence class.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from clients.contract import Contract
from clients.detections import Detections
from clients.errors import ContractError, ImageError
from clients.images import ImageSource, Pixels, read_pixels
from clients.letterbox import Letterbox, letterbox

if TYPE_CHECKING:
    from clients.memory.ring import Slot

_LARGEST_MMAP_THRESHOLD = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Images made ready for one request, and what is needed to read its answer."""

    contract: Contract
    images_BHWC: NDArray[np.uint8]
    """uint8 [B, H, W, 3], RGB, letterboxed, contiguous: the very bytes of the request."""
    letterboxes: tuple[Letterbox, ...]
    priority: int = 0
    """From 1, the most urgent, to the model's number of levels; 0: the model's default."""
    slot: Slot | None = None
    """The shared memory that the images are in and the answer is to come in; None: both go in the messages."""

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


class Room(Protocol):
    """Where input arrays come from."""

    def take(self, count: int) -> NDArray[np.uint8]:
        """Room for so many images, uint8 [count, H, W, 3], with any content."""

    def give_back(self, images_BHWC: NDArray[np.uint8]) -> None:
        """Nobody needs what ``take`` gave."""


class InputPool:
    """Input arrays that are used again, so that pictures cost no memory after the first; safe between threads.

    It holds as many as were ever out at a time.
    """

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._lock = threading.Lock()
        self._free: dict[int, list[NDArray[np.uint8]]] = {}

    def take(self, count: int) -> NDArray[np.uint8]:
        """Room for so many images, uint8 [count, H, W, 3], with any content."""
        capacity = self._capacity(count)
        with self._lock:
            free = self._free.setdefault(capacity, [])
            images_BHWC = free.pop() if free else None
        if images_BHWC is None:
            images_BHWC = np.empty((capacity, *self._contract.size_hw, 3), np.uint8)
        return images_BHWC[:count]

    def give_back(self, images_BHWC: NDArray[np.uint8]) -> None:
        """Let others use what ``take`` gave, whose content must not matter to anybody any more."""
        whole = images_BHWC if images_BHWC.base is None else images_BHWC.base
        assert isinstance(whole, np.ndarray)
        with self._lock:
            self._free[len(whole)].append(whole)

    def _capacity(self, count: int) -> int:
        # Two sizes: a pool for each number of images would hold an array of each.
        return 1 if count == 1 else self._contract.max_batch_size


def keep_freed_memory(contract: Contract) -> None:
    """Have the memory of one request still be there for the next.

    The C library gives blocks of a request's size back to the system when they are freed, and the next request pays
    for 300 page faults per MB: 1 ms of the 3 that a 1080p frame took. It stops doing so with blocks of a size that was
    freed once before (glibc: mallopt(3), "dynamic mmap threshold", at most 32 MB); where it does not, nothing happens.
    """
    request_bytes = contract.max_batch_size * contract.size_hw[0] * contract.size_hw[1] * 3
    np.empty(min(4 * request_bytes, _LARGEST_MMAP_THRESHOLD - (1 << 16)), np.uint8)


def batch_of_one(
    source: ImageSource,
    contract: Contract,
    pool: Room | None = None,
    *,
    priority: int = 0,
    index: int | None = None,
) -> Batch:
    """One image as a request, in an array of ``pool`` where one is given.

    Raises ImageError, which names the image by ``index`` where one is given.
    """
    return batch_of([source], contract, pool or InputPool(contract), priority, index)


def batches(
    sources: Iterable[ImageSource], contract: Contract, pool: Room | None = None, *, priority: int = 0
) -> Iterator[Batch]:
    """Images as requests of at most ``contract.max_batch_size``, in order, each read only when its request is made.

    At most one picture is held at its full size. Raises ImageError with the failing image's index.
    """
    pool = pool or InputPool(contract)
    for first, chunk in chunks(sources, contract):
        yield batch_of(chunk, contract, pool, priority, first)


def chunks(sources: Iterable[ImageSource], contract: Contract) -> Iterator[tuple[int, list[ImageSource]]]:
    """At most ``contract.max_batch_size`` sources at a time, with the index of their first."""
    check_several(sources)
    numbered = iter(sources)
    first = 0
    while chunk := list(itertools.islice(numbered, contract.max_batch_size)):
        yield first, chunk
        first += len(chunk)


def check_several(sources: object) -> None:
    """Raise ImageError for one image where several are expected."""
    if isinstance(sources, str | os.PathLike | bytes | bytearray | memoryview | Pixels) or (
        isinstance(sources, np.ndarray) and sources.ndim < 4
    ):
        raise ImageError(f"expected several images, got one {type(sources).__name__}: put it in a list, or use detect")


def batch_of(
    sources: list[ImageSource], contract: Contract, pool: Room, priority: int, first: int | None = None
) -> Batch:
    """One request; ``first`` is the index of its first image, where errors are to name one. Raises ImageError."""
    images_BHWC = pool.take(len(sources))
    letterboxes = []
    try:
        for index, (source, out_HWC) in enumerate(zip(sources, images_BHWC, strict=True)):
            try:
                letterboxes.append(_place(source, out_HWC, contract.size_hw))
            except ImageError as error:
                if first is None:
                    raise
                raise ImageError(f"image {first + index}: {error}") from error
    except BaseException:
        pool.give_back(images_BHWC)
        raise
    return Batch(contract=contract, images_BHWC=images_BHWC, letterboxes=tuple(letterboxes), priority=priority)


def _place(source: ImageSource, out_HWC: NDArray[np.uint8], size_hw: tuple[int, int]) -> Letterbox:
    pixels = read_pixels(source)
    return letterbox(pixels.array_HWC, size_hw, out_HWC, order=pixels.order)[1]
