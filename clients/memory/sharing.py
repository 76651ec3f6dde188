"""How a session sends its images by shared memory, and how it gives that up where the server has no part in it."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clients.batches import Batch
from clients.contract import Contract
from clients.memory.control import MemoryControl
from clients.memory.regions import MemoryKind, SharedMemoryUnavailableError, SystemRegion, UnknownRegionError
from clients.memory.ring import DEFAULT_LIMIT, MakeRegion, SharedMemoryRing, Slot
from clients.options import ConnectionOptions
from clients.wire.steps import Steps

_logger = logging.getLogger(__name__)


class Inferring(Protocol):
    """What sends a batch: by the memory of its slot if it has one, else in the request itself."""

    def infer(self, batch: Batch, timeout_s: float) -> Steps[NDArray[np.float32]]:
        """The answer, float32 [B, N, 6]."""


class Sharing:
    """The slots of one session; after the first refusal there are none, which is said once."""

    def __init__(self, ring: SharedMemoryRing) -> None:
        self._ring = ring
        self._stopped = False

    def open(self, timeout_s: float) -> Steps[None]:
        """Try it, so that a refusal is known before the first image."""
        try:
            yield from self._ring.open(timeout_s)
        except SharedMemoryUnavailableError as error:
            self._stop(error)

    def lend(self, count: int, timeout_s: float) -> Steps[Slot | None]:
        """Room for so many images; None where they have to go in the request."""
        if not self._stopped:
            try:
                return (yield from self._ring.lend(count, timeout_s))
            except SharedMemoryUnavailableError as error:
                self._stop(error)
        return None

    def infer(self, sender: Inferring, batch: Batch, timeout_s: float) -> Steps[NDArray[np.float32]]:
        """The answer to one batch that is in a slot, which a server that has been restarted is told of first."""
        assert batch.slot is not None
        try:
            if not self._stopped:
                with contextlib.suppress(UnknownRegionError):
                    yield from batch.slot.send(len(batch.images_BHWC))
                    return (yield from sender.infer(batch, timeout_s))
                yield from self._ring.renew(batch.slot, timeout_s)
                yield from batch.slot.send(len(batch.images_BHWC))
                return (yield from sender.infer(batch, timeout_s))
        except SharedMemoryUnavailableError as error:
            self._stop(error)
        return (yield from sender.infer(replace(batch, slot=None), timeout_s))

    def settle(self, slot: Slot, *, answered: bool) -> None:
        """Take a slot back; only one whose request has been answered, or was never taken, is lent again."""
        if answered:
            self._ring.give_back(slot)
        else:
            self._ring.drop(slot)

    def closing(self) -> Steps[None]:
        """Have the server unmap everything."""
        yield from self._ring.closing()

    def _stop(self, error: SharedMemoryUnavailableError) -> None:
        if not self._stopped:
            self._stopped = True
            _logger.warning("images go in the requests: %s", error)


def sharing_with(
    kind: MemoryKind, control: MemoryControl, contract: Contract, url: str, options: ConnectionOptions
) -> Sharing:
    """Memory of one kind for one model; raises SharedMemoryUnavailableError for a GPU's without a GPU."""
    make_region: MakeRegion = SystemRegion
    if kind is MemoryKind.CUDA:
        from clients.memory.cuda import cuda_regions

        make_region = cuda_regions()

    def perform(steps: Steps[None]) -> None:
        from clients.wire.transport import connect

        # At a process's end, the session's own connection may be in the middle of something, or belong to a loop.
        transport = connect(url, options)
        try:
            transport.run(steps)
        finally:
            transport.close()

    # Twice what is ever in flight: the server may be slow to let go of what is given up.
    limit = max(DEFAULT_LIMIT, 2 * contract.saturating_requests)
    return Sharing(SharedMemoryRing(control, contract, perform, limit=limit, make_region=make_region))
