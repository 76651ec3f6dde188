"""A ring of shared-memory regions: registered once, lent to one request after the other, always taken back.

A region may be used again when its request has been answered. One whose answer did not come (the time was over, the
connection broke) may still be read and written by the server: it is never used again, and the server is asked to unmap
it until it does so, which Triton refuses or puts off as long as a request has the region.

What needs the server is made of steps, so that one ring serves the blocking and the asynchronous detector.

Legend: B images of a batch, H height, W width, C three channels, N rows per image, 6 = x1 y1 x2 y2 confidence class.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clients.contract import Contract
from clients.errors import ClientError, DeadlineExceededError, ServerUnavailableError
from clients.memory.at_exit import EXIT_TIMEOUT_S, close_at_exit, closed
from clients.memory.control import MemoryControl
from clients.memory.regions import (
    MemoryKind,
    Place,
    Region,
    SharedMemoryUnavailableError,
    SystemRegion,
    is_left_behind,
    unlink_left_behind,
)
from clients.wire.steps import Pause, Steps

DEFAULT_LIMIT = 64
"""Regions of one ring; each is made when it is needed first."""
_POLL_S = 0.005
_REAP_INTERVAL_S = 1.0
_REAP_TIMEOUT_S = 0.25
_COLUMNS = 6

_logger = logging.getLogger(__name__)

MakeRegion = Callable[[int, int], Region]
"""From the bytes of an input and of an output."""


class Slot:
    """A region as it looks to one request of at most ``capacity`` images."""

    def __init__(self, region: Region, contract: Contract, capacity: int) -> None:
        self.capacity = capacity
        self._contract = contract
        self._use(region)

    @property
    def region(self) -> Region:
        """Where its tensors are."""
        return self._region

    def take(self, count: int) -> NDArray[np.uint8]:
        """The input itself, uint8 [B, H, W, 3], to be written in place."""
        return self._images_BHWC[:count]

    def give_back(self, images_BHWC: NDArray[np.uint8]) -> None:
        """The whole slot is given back to its ring."""

    def images_place(self, count: int) -> Place:
        """Where the server finds that many images."""
        return self._region.input_place(_input_bytes(self._contract, count))

    def rows_place(self, count: int) -> Place:
        """Where the server is to put the detections of that many images."""
        return self._region.output_place(_output_bytes(self._contract, count))

    def send(self, count: int) -> Steps[None]:
        """Bring the images to where the server reads them."""
        yield from self._region.send(_input_bytes(self._contract, count))

    def receive(self, count: int) -> NDArray[np.float32]:
        """A copy of the detections, float32 [B, N, 6]."""
        rows = self._region.receive(_output_bytes(self._contract, count))
        return rows.view(np.float32).reshape(count, self._contract.max_detections, _COLUMNS)

    def move(self, region: Region) -> Region:
        """Take the images along into another region; returns the old one."""
        old = self._region
        np.copyto(region.input, old.input)
        self._use(region)
        return old

    def close(self) -> None:
        """Give the memory back on this side."""
        del self._images_BHWC
        self._region.close()

    def _use(self, region: Region) -> None:
        self._region = region
        self._images_BHWC: NDArray[np.uint8] = region.input.reshape(self.capacity, *self._contract.size_hw, 3)


class SharedMemoryRing:
    """Regions for requests to one model on one server; it may be shared between threads.

    What is not closed is closed at the process's end, see :mod:`clients.memory.at_exit`.
    """

    def __init__(
        self,
        control: MemoryControl,
        contract: Contract,
        perform: Callable[[Steps[None]], None],
        *,
        limit: int = DEFAULT_LIMIT,
        make_region: MakeRegion = SystemRegion,
    ) -> None:
        """Nothing is shared yet; ``perform`` is how :meth:`close` has its steps done, from whatever thread."""
        self._control, self._contract, self._perform = control, contract, perform
        self._limit, self._make_region = limit, make_region
        self._lock = threading.Lock()
        self._free: list[Slot] = []
        self._lent: set[Slot] = set()
        self._retired: dict[str, MemoryKind] = {}
        """Regions of requests that may still be running."""
        self._making = 0
        self._reaped_at = time.monotonic()
        self._pid = os.getpid()
        self._closed = False
        close_at_exit(self)

    def open(self, timeout_s: float) -> Steps[None]:
        """Share a first region, for one image; then remove what clients that were killed left on the server.

        Raises SharedMemoryUnavailableError where the server or this machine does not take part.
        """
        slot = yield from self.lend(1, timeout_s)
        kind = slot.region.kind
        self.give_back(slot)
        unlink_left_behind()
        with contextlib.suppress(ClientError):
            for name in (yield from self._control.registered(kind, timeout_s)):
                if is_left_behind(name):
                    # Refused while the server still works at its last request: the next client gets it.
                    with contextlib.suppress(SharedMemoryUnavailableError):
                        yield from self._control.unregister(kind, name, timeout_s)

    def lend(self, count: int, timeout_s: float) -> Steps[Slot]:
        """A slot for ``count`` images, to be given back or dropped.

        Raises DeadlineExceededError where none gets free in time, SharedMemoryUnavailableError where no memory can be
        shared any more.
        """
        deadline = time.monotonic() + timeout_s
        if self._retired and time.monotonic() - self._reaped_at > _REAP_INTERVAL_S:
            with contextlib.suppress(ServerUnavailableError):
                yield from self._reap(min(deadline, time.monotonic() + _REAP_TIMEOUT_S))
        while True:
            outgrown = None
            with self._lock:
                if self._closed:
                    raise ServerUnavailableError(
                        "the shared memory has been given back by close(): make a new Detector"
                    )
                if slot := self._take(count):
                    return slot
                if may_grow := len(self._free) + len(self._lent) + len(self._retired) + self._making < self._limit:
                    self._making += 1
                elif self._free:
                    outgrown = self._free.pop()
            if may_grow and (slot := (yield from self._grown(count, deadline))):
                return slot
            if outgrown:
                self._retire(outgrown)
            if self._retired:
                yield from self._reap(deadline)
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"none of {self._limit} shared-memory regions got free within {timeout_s:g} s: the server has not "
                    "answered the requests that have them; allow each request more time (timeout_s)"
                )
            if not outgrown:
                yield Pause(_POLL_S)

    def give_back(self, slot: Slot) -> None:
        """Its request has been answered, or was never sent: the next one may have it."""
        with self._lock:
            if slot in self._lent:
                self._lent.remove(slot)
                self._free.append(slot)

    def drop(self, slot: Slot) -> None:
        """Its request may still be running: nobody may have it again."""
        with self._lock:
            self._lent.discard(slot)
        self._retire(slot)

    def renew(self, slot: Slot, timeout_s: float) -> Steps[None]:
        """Share it again, its images included, with a server that has forgotten it.

        Raises SharedMemoryUnavailableError where the server does not take it any more; the images stay.
        """
        try:
            region = yield from self._shared(slot.capacity, timeout_s)
        except OSError as error:
            raise _no_memory(error) from error
        # The server that has forgotten it has nothing left that could run.
        slot.move(region).close()

    def close(self, timeout_s: float = EXIT_TIMEOUT_S) -> None:
        """Have the server unmap every region, those of running requests when they have been answered."""
        # A fork has its parent's rings, which are not its own to take down.
        if os.getpid() == self._pid:
            self._perform(self.closing(timeout_s))
        closed(self)

    def closing(self, timeout_s: float = EXIT_TIMEOUT_S) -> Steps[None]:
        """What :meth:`close` does.

        What the server does not unmap in time it keeps until another client comes or it ends; nothing is left in
        /dev/shm.
        """
        closed(self)
        with self._lock:
            self._closed = True
            free, self._free, lent, self._lent = self._free, [], self._lent, set()
            # Whoever has them reads and writes them until its request has ended.
            self._retired |= {slot.region.name: slot.region.kind for slot in lent}
        for slot in free:
            self._retire(slot)
        deadline = time.monotonic() + timeout_s
        with contextlib.suppress(ServerUnavailableError):
            while self._retired and (yield from self._reap(deadline)) and time.monotonic() < deadline:
                yield Pause(_POLL_S)
            if self._retired:
                _logger.warning("%d shared-memory regions are still in use by the server", len(self._retired))

    def _take(self, count: int) -> Slot | None:
        for slot in reversed(self._free):
            if slot.capacity >= count:
                self._free.remove(slot)
                self._lent.add(slot)
                return slot
        return None

    def _grown(self, count: int, deadline: float) -> Steps[Slot | None]:
        """One slot more; None where there is no memory for more than there are."""
        # A power of two, so that batches of about the same size share slots.
        capacity = min(1 << (count - 1).bit_length(), max(self._contract.max_batch_size, count))
        try:
            region = yield from self._shared(capacity, _remaining_s(deadline))
        except OSError as error:
            with self._lock:
                others = len(self._free) + len(self._lent) + len(self._retired)
                if error.errno == errno.ENOSPC and others:
                    self._limit = others
                    return None
            raise _no_memory(error) from error
        finally:
            with self._lock:
                self._making -= 1
        slot = Slot(region, self._contract, capacity)
        with self._lock:
            self._lent.add(slot)
        return slot

    def _shared(self, capacity: int, timeout_s: float) -> Steps[Region]:
        """A new region that the server has mapped; raises OSError where this machine has no memory for it."""
        region = self._make_region(_input_bytes(self._contract, capacity), _output_bytes(self._contract, capacity))
        try:
            yield from region.register(self._control, timeout_s)
        except BaseException as error:
            refused = isinstance(error, ClientError) and error.not_accepted
            if not (refused or isinstance(error, SharedMemoryUnavailableError)):
                # The server may have mapped it nevertheless.
                with self._lock:
                    self._retired[region.name] = region.kind
            region.close()
            raise
        return region

    def _retire(self, slot: Slot) -> None:
        with self._lock:
            self._retired[slot.region.name] = slot.region.kind
        slot.close()

    def _reap(self, deadline: float) -> Steps[int]:
        """Ask the server to unmap what is retired; how many regions it still has. Raises ServerUnavailableError."""
        self._reaped_at = time.monotonic()
        with self._lock:
            asked = dict(self._retired)
        with contextlib.suppress(DeadlineExceededError, SharedMemoryUnavailableError):
            for name, kind in asked.items():
                # Refused while a request has it (2.51), or put off and not refused (later).
                with contextlib.suppress(SharedMemoryUnavailableError):
                    yield from self._control.unregister(kind, name, _remaining_s(deadline))
            for kind in set(asked.values()):
                mapped = yield from self._control.registered(kind, _remaining_s(deadline))
                with self._lock:
                    for name in asked.keys() - mapped:
                        if asked[name] is kind:
                            self._retired.pop(name, None)
        return len(self._retired)


def _no_memory(error: OSError) -> SharedMemoryUnavailableError:
    return SharedMemoryUnavailableError(
        f"cannot share memory ({error.strerror or error}): give /dev/shm more room (docker run --shm-size)"
    )


def _remaining_s(deadline: float) -> float:
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise DeadlineExceededError("no time was left to share memory with the server; allow each request more time")
    return remaining_s


def _input_bytes(contract: Contract, count: int) -> int:
    return count * contract.size_hw[0] * contract.size_hw[1] * 3


def _output_bytes(contract: Contract, count: int) -> int:
    return count * contract.max_detections * _COLUMNS * np.dtype(np.float32).itemsize
