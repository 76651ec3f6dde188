"""What a detector does that has its images and answers in shared memory; nothing of it is I/O."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from clients.batches import Batch, Room, batch_of, batch_of_one, chunks
from clients.detections import Detections
from clients.errors import ClientError
from clients.images import ImageSource
from clients.memory.regions import MemoryKind
from clients.memory.sharing import Sharing, sharing_with
from clients.options import DEFAULT_OPTIONS, ConnectionOptions
from clients.selection import EVERYTHING
from clients.session import CONNECT_TIMEOUT_S, DEFAULT_TIMEOUT_S, Session
from clients.wire.steps import Steps, Work
from clients.wire.transport import Dialect


class SharedSession(Session):
    """One model on one server of this machine; where the server shares no memory, images go in the requests."""

    def __init__(
        self,
        model: str,
        *,
        url: str,
        kind: MemoryKind = MemoryKind.SYSTEM,
        version: str | int = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        options: ConnectionOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Check the arguments; ``url`` is where to give memory back at the process's end."""
        super().__init__(model, version=version, timeout_s=timeout_s, options=options)
        self._url, self._kind = url, kind
        self._sharing: Sharing | None = None

    def open(self, dialect: Dialect) -> Steps[None]:
        """Read the model's contract, and share a first region.

        Raises what the contract's absence or kind means, and SharedMemoryUnavailableError for a GPU's memory without a
        GPU.
        """
        yield from super().open(dialect)
        yield from self._share(dialect)

    def refreshed(self, dialect: Dialect) -> Steps[Self | None]:
        """The same for what the server says of the model now, in memory of its own; this one's is given back."""
        fresh = copy.copy(self)
        yield from Session.open(fresh, dialect)
        if fresh.contract == self.contract:
            return None
        yield from fresh._share(dialect)
        yield from self.closing()
        return fresh

    def closing(self) -> Steps[None]:
        """Have the server give the memory back; the connection is still needed for it."""
        if self._sharing:
            yield from self._sharing.closing()

    def detect(
        self, dialect: Dialect, image: ImageSource, confidence: float, priority: int, index: int | None = None
    ) -> Steps[Detections]:
        """One image, which an ImageError names by ``index`` where one is given."""
        self.check(confidence, priority)

        def make(room: Room) -> Batch:
            return batch_of_one(image, self.contract, room, priority=priority, index=index)

        return (yield from self._infer_shared(dialect, make, 1, confidence, self._deadline()))[0]

    def detect_batch(
        self, dialect: Dialect, images: Iterable[ImageSource], confidence: float, priority: int
    ) -> Steps[list[Detections]]:
        """Several images, one request after the other."""
        self.check(confidence, priority)
        deadline = self._deadline()
        parts = chunks(images, self.contract)
        results: list[Detections] = []
        while (part := (yield Work(lambda: next(parts, None)))) is not None:
            first, chunk = part
            make = functools.partial(batch_of, chunk, self.contract, priority=priority, first=first)
            results += yield from self._infer_shared(dialect, make, len(chunk), confidence, deadline)
        return results

    def _share(self, dialect: Dialect) -> Steps[None]:
        self._sharing = sharing_with(self._kind, dialect.memory(), self.contract, self._url, self._options)
        yield from self._sharing.open(min(self._timeout_s, CONNECT_TIMEOUT_S))

    def _infer_shared(
        self, dialect: Dialect, make: Callable[[Room], Batch], count: int, confidence: float, deadline: float
    ) -> Steps[list[Detections]]:
        """One request of ``count`` images, which ``make`` puts where they are sent from."""
        sharing, pool = self._sharing, self._pool
        assert sharing is not None, "the session has not been opened"
        assert pool is not None
        # Waiting for a slot is part of the request.
        end = min(deadline, self._clock() + self._timeout_s)
        slot = yield from self._request(functools.partial(sharing.lend, count), dialect, self._timeout_s, end)
        if slot is None:
            batch: Batch = yield Work(lambda: make(pool))
            return (yield from self._infer(dialect, batch, confidence, deadline))
        answered = True
        try:
            batch = replace((yield Work(lambda: make(slot))), slot=slot)
            answered = False
            rows_BN6: NDArray[np.float32] = yield from self._request(
                functools.partial(sharing.infer, dialect, batch), dialect, self._timeout_s, end
            )
            answered = True
        except ClientError as error:
            # No other error is sure: a connection that broke under a request may come as an InferenceError.
            answered = answered or error.not_accepted
            raise
        finally:
            # A request that nobody has answered may still be read, and its answer written.
            sharing.settle(slot, answered=answered)
        found = batch.detections(rows_BN6, confidence)
        return found if self._selection is EVERYTHING else [self._selection.apply(each) for each in found]
