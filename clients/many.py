"""Many images under way at a time, answered in order."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

from clients.batches import check_several
from clients.pace import Pace
from clients.wire.transport import Cancellation, CancelledByCallerError

S = TypeVar("S")
T = TypeVar("T")

AnyIterable: TypeAlias = "Iterable[S] | AsyncIterable[S]"

ENDING_S = 1.0
"""What requests under way have to end by themselves.

A gRPC request that is cancelled while its answer is made can end a tritonserver before 2.57 (25.04) by a segmentation
fault, with everybody's requests (https://github.com/triton-inference-server/server/pull/8078).
"""


class Results(Iterator[T], Generic[S, T]):
    """The answers to ``sources``, in their order, with at most ``in_flight`` of them under way, or as ``pace`` allows.

    Sources are taken in the thread that asks for results, one by one, and never more than twice ``in_flight`` ahead of
    the result that was asked for last; nothing happens before the first is asked for. So a request that takes longer
    than those after it does not leave the server without work. Where an image failed, ``next`` raises its error, and
    the ``next`` after it goes on with the image after it; a ``for`` loop ends at the first error. Where the source
    itself fails, its error comes after the results of what it gave, and is the end.

    ``close``, the end of a ``with`` block, or the end of the last reference ends what is on its way.
    """

    def __init__(
        self,
        detect: Callable[[S, int, Cancellation], T],
        sources: Iterable[S],
        in_flight: int,
        pace: Pace | None = None,
    ) -> None:
        """Prepare; ``detect`` is called in threads, with a source and its index."""
        check_several(sources)
        _check_in_flight(in_flight)
        self._detect = detect
        self._sources = iter(sources)
        self._ahead = 2 * in_flight
        self._pace = pace or Pace(in_flight)
        self._cancellation = Cancellation()
        self._threads = ThreadPoolExecutor(in_flight, thread_name_prefix="detect_many")
        self._under_way = _UnderWay()
        self._pending: deque[Future[T]] = deque()
        self._taken = 0
        self._source_error: Exception | None = None
        self._exhausted = False

    def __next__(self) -> T:
        # One in for one out, and more only while there is nothing to hand out: a camera that gives a frame now and then
        # must not hold back the results of those before.
        asked = False
        while True:
            with self._under_way.changed:
                self._under_way.changed.wait_for(lambda: self._has_room() or self._is_due() or not self._pending)
                takes = self._has_room() and not (asked and self._is_due())
                due = self._pending.popleft() if not takes and self._pending else None
            if takes:
                self._take_source()
                asked = True
                continue
            if due is None:
                break
            try:
                return due.result()
            except (CancelledByCallerError, CancelledError):
                # Closed by another thread while this one waited.
                raise StopIteration from None
        self.close()
        error, self._source_error = self._source_error, None
        if error is not None:
            raise error
        raise StopIteration

    def _has_room(self) -> bool:
        return not self._exhausted and self._under_way.count < self._pace.limit and len(self._pending) < self._ahead

    def _is_due(self) -> bool:
        return bool(self._pending) and self._pending[0].done()

    def _take_source(self) -> None:
        try:
            source = next(self._sources)
        except StopIteration:
            self._exhausted = True
        except Exception as error:
            self._exhausted, self._source_error = True, error
        else:
            index, self._taken = self._taken, self._taken + 1
            with self._under_way.changed:
                # Another thread may have closed it meanwhile.
                if not self._exhausted:
                    self._under_way.count += 1
                    self._pending.append(self._threads.submit(self._detect, source, index, self._cancellation))
                    self._pending[-1].add_done_callback(self._under_way.ended)

    def close(self) -> None:
        """Let what is under way end, for a second at most, then cancel it; nothing more is begun."""
        with self._under_way.changed:
            self._exhausted = True
        self._begin_nothing_more()
        _end(self._under_way, self._cancellation)
        self._threads.shutdown(wait=True)
        with self._under_way.changed:
            self._pending.clear()
            self._under_way.changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Absent where the arguments were refused.
        if hasattr(self, "_pending"):
            self._begin_nothing_more()
            # Nobody is to wait here: whose thread this is nobody knows, and its Ctrl-C would be lost.
            ending = threading.Thread(target=_end, args=(self._under_way, self._cancellation), daemon=True)
            try:
                ending.start()
            except RuntimeError:  # the interpreter ends
                self._cancellation.cancel()

    def _begin_nothing_more(self) -> None:
        self._cancellation.refuse()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _UnderWay:
    """How many requests are; apart from Results, which must not live on because of what is under way."""

    def __init__(self) -> None:
        self.count = 0
        self.changed = threading.Condition()

    def ended(self, _: Future[Any]) -> None:
        """One less."""
        with self.changed:
            self.count -= 1
            self.changed.notify_all()


def _end(under_way: _UnderWay, cancellation: Cancellation) -> None:
    """Cancel what does not end by itself."""
    try:
        with under_way.changed:
            under_way.changed.wait_for(lambda: under_way.count == 0, ENDING_S)
    finally:
        # After Ctrl-C, too: the interpreter ends only with these threads.
        cancellation.cancel()


class AsyncResults(AsyncIterator[T], Generic[S, T]):
    """The same on an event loop; ``sources`` may be an asynchronous iterable, too.

    An asynchronous source is waited for while results are; a blocking one holds up the loop for as long as it takes to
    give its next image. Leave a loop early through ``async with`` or ``await results.aclose()``, which end what is on
    its way.
    """

    def __init__(
        self,
        detect: Callable[[S, int], Coroutine[Any, Any, T]],
        sources: AnyIterable[S],
        in_flight: int,
        pace: Pace | None = None,
    ) -> None:
        """Prepare; ``detect`` is called with a source and its index."""
        check_several(sources)
        _check_in_flight(in_flight)
        self._detect = detect
        self._sources = aiter(sources) if isinstance(sources, AsyncIterable) else _in_turn(sources)
        self._ahead = 2 * in_flight
        self._pace = pace or Pace(in_flight)
        self._pending: deque[asyncio.Task[T]] = deque()
        self._taking: asyncio.Task[None] | None = None
        self._taken = 0
        self._source_error: Exception | None = None
        self._exhausted = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            if self._taking is not None and self._taking.done():
                self._taking = None
            if self._taking is None and self._has_room():
                self._taking = asyncio.create_task(self._take_source())
            if self._pending and self._pending[0].done():
                return self._pending.popleft().result()
            waited = {task for task in (self._taking, *self._pending) if task is not None and not task.done()}
            if not waited:
                break
            # Cancelling whoever waits leaves the result to be asked for again.
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        error, self._source_error = self._source_error, None
        if error is not None:
            raise error
        raise StopAsyncIteration

    def _has_room(self) -> bool:
        under_way = sum(not task.done() for task in self._pending)
        return not self._exhausted and under_way < self._pace.limit and len(self._pending) < self._ahead

    async def _take_source(self) -> None:
        """Start on the next source."""
        try:
            source = await anext(self._sources)
        except StopAsyncIteration:
            self._exhausted = True
        except Exception as error:
            self._exhausted, self._source_error = True, error
        else:
            index, self._taken = self._taken, self._taken + 1
            self._pending.append(asyncio.create_task(self._detect(source, index)))

    async def aclose(self) -> None:
        """Let what is under way end, for a second at most, then cancel it; nothing more is begun."""
        self._exhausted = True
        taking, under_way = self._taking, list(self._pending)
        self._pending.clear()
        self._taking = self._source_error = None
        if taking is not None:
            taking.cancel()
        try:
            if under_way:
                await asyncio.wait(under_way, timeout=ENDING_S)
        finally:
            # Whoever closes may be cancelled meanwhile.
            for task in under_way:
                task.cancel()
        await asyncio.gather(*under_way, *([taking] if taking else []), return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _in_turn(sources: Iterable[S]) -> AsyncIterator[S]:
    for source in sources:
        yield source


def _check_in_flight(in_flight: int) -> None:
    if in_flight < 1:
        raise ValueError(f"expected at least 1 request in flight, got {in_flight}")
