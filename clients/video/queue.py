"""Between the readers of many sources and a bounded number of requests: one waiting frame per source.

A source that is read faster than frames are answered has its waiting frame replaced by the newer one, so that what is
sent is never older than one frame and a slow server costs frames, not time. Every frame is accounted for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from clients.video.accounts import Account, AccountView

FrameT = TypeVar("FrameT")


@dataclass(frozen=True, slots=True)
class Ticket(Generic[FrameT]):
    """A frame that was taken to be sent."""

    source: int
    sequence: int
    """Counts the frames taken of this source, from 0: the order in which its results are due."""
    frame: FrameT


class FrameQueue(Generic[FrameT]):
    """One place for a waiting frame per source; safe to share between threads."""

    def __init__(self, priorities: Sequence[int], in_flight: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``priorities`` has each source's, 1 the highest, 0 for none; of each, ``in_flight`` frames may be taken."""
        self._priorities = priorities
        self._in_flight = in_flight
        self._clock = clock
        self._lock = threading.Lock()
        # Whoever waits for a frame, and whoever for room: a frame needs to wake one of the first.
        self._frames = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._waiting: list[FrameT | None] = [None] * len(priorities)
        self._taken = [0] * len(priorities)
        self._held = [0] * len(priorities)
        self._last_taken = [0] * len(priorities)
        self._turn = 0
        self._accounts = [Account() for _ in priorities]
        self._open = set(range(len(priorities)))
        self._is_stopped = False

    def offer(self, source: int, frame: FrameT) -> bool:
        """Put a frame in, in place of one that waits; False once the queue is stopped, and nothing is counted."""
        with self._lock:
            if self._is_stopped:
                return False
            account = self._accounts[source]
            account.captured += 1
            account.dropped += self._waiting[source] is not None
            self._waiting[source] = frame
            self._frames.notify()
            return True

    def put(self, source: int, frame: FrameT) -> bool:
        """Put a frame in when the one that waits has been taken; False once the queue is stopped."""
        with self._lock:
            self._room.wait_for(lambda: self._is_stopped or self._waiting[source] is None)
            if self._is_stopped:
                return False
            self._accounts[source].captured += 1
            self._waiting[source] = frame
            self._frames.notify()
            return True

    def end(self, source: int) -> None:
        """No more frames come from this source; what waits is still answered."""
        with self._lock:
            self._open.discard(source)
            self._frames.notify_all()

    def take(self) -> Ticket[FrameT] | None:
        """The next frame to send, waited for; None when no more will come.

        Of the sources with a frame those of the highest priority go first; of these, the one with the fewest frames
        taken and not released, then the one that has waited longest for its turn.
        """
        with self._lock:
            while not self._is_stopped:
                ready = [
                    source
                    for source, frame in enumerate(self._waiting)
                    if frame is not None and self._held[source] < self._in_flight
                ]
                if ready:
                    return self._ticket(min(ready, key=self._place_in_line))
                if not self._open and all(frame is None for frame in self._waiting):
                    return None
                self._frames.wait()
            return None

    def answered(self, ticket: Ticket[FrameT], latency_s: float) -> None:
        """The frame was answered ``latency_s`` after its capture."""
        with self._lock:
            account = self._accounts[ticket.source]
            account.answered += 1
            account.latencies.add(latency_s)
            account.rate.add(self._clock())

    def failed(self, ticket: Ticket[FrameT]) -> None:
        """The frame ended in an error."""
        with self._lock:
            self._accounts[ticket.source].failed += 1

    def release(self, ticket: Ticket[FrameT]) -> None:
        """Nothing of the frame is held any more."""
        with self._lock:
            self._held[ticket.source] -= 1
            if self._waiting[ticket.source] is not None:
                self._frames.notify()

    def stop(self) -> None:
        """Take no more frames; those that wait are dropped."""
        with self._lock:
            self._is_stopped = True
            for source, frame in enumerate(self._waiting):
                self._accounts[source].dropped += frame is not None
                self._waiting[source] = None
            self._frames.notify_all()
            self._room.notify_all()

    def views(self) -> list[AccountView]:
        """What became of the frames so far, by source, all at one moment."""
        with self._lock:
            now_s = self._clock()
            return [AccountView.of(account, now_s) for account in self._accounts]

    def _place_in_line(self, source: int) -> tuple[float, int, int]:
        # A source without a priority comes after all that have one.
        priority = self._priorities[source] or float("inf")
        return priority, self._held[source], self._last_taken[source]

    def _ticket(self, source: int) -> Ticket[FrameT]:
        frame = self._waiting[source]
        assert frame is not None
        self._waiting[source] = None
        self._turn += 1
        self._last_taken[source] = self._turn
        self._held[source] += 1
        ticket = Ticket(source, self._taken[source], frame)
        self._taken[source] += 1
        self._room.notify_all()
        if not self._open:
            # This may have been the last one.
            self._frames.notify_all()
        return ticket
