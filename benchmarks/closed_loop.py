"""Closed-loop load: each caller has one request under way at any time, as an application's threads have."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from benchmarks.figures import Window
from benchmarks.threads import running

POLL_S = 0.01

Call = Callable[[int], object]
"""Has the picture of that number inferred, and returns when its answer is there. Numbers go up without end."""


def measure(callers: Sequence[Call], *, settle_s: float, duration_s: float, images_per_call: int = 1) -> Window:
    """Run the callers side by side, one thread each, and count the calls that end within the window.

    It opens after ``settle_s``, and closes ``duration_s`` later, or when a first call has ended in it. Calls are under
    way at both edges: what began before the window stands for what ends after it.

    Raises:
        Exception: what a caller raised; the others are stopped first.
    """
    return _Run(callers, settle_s, duration_s).window(images_per_call)


class _Run:
    """The threads of one measurement and what they share."""

    def __init__(self, callers: Sequence[Call], settle_s: float, duration_s: float) -> None:
        self._start = threading.Barrier(len(callers) + 1)
        self._stop = threading.Event()
        self._calls: list[tuple[float, float]] = []
        """Start and end of each; list.append is atomic."""
        self._failures: list[BaseException] = []
        self._settle_s, self._duration_s = settle_s, duration_s
        self._threads = [
            threading.Thread(target=self._repeat, args=(call, number), name=f"caller-{number}")
            for number, call in enumerate(callers)
        ]

    def window(self, images_per_call: int) -> Window:
        with running(self._threads, self._end):
            self._start.wait()
            opens = time.perf_counter() + self._settle_s
            closes = opens + self._duration_s
            while self._ended_since(opens) == 0 or time.perf_counter() < closes:
                if self._stop.wait(max(closes - time.perf_counter(), POLL_S)):
                    break
            closes = time.perf_counter()
        if self._failures:
            raise self._failures[0]
        latencies_s = tuple(end - start for start, end in self._calls if opens < end <= closes)
        return Window(duration_s=closes - opens, images=len(latencies_s) * images_per_call, latencies_s=latencies_s)

    def _end(self) -> None:
        self._stop.set()
        # Interrupted before all have come, they would wait for one another for ever.
        self._start.abort()

    def _ended_since(self, moment: float) -> int:
        return sum(end > moment for _, end in self._calls)

    def _repeat(self, call: Call, picture: int) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            self._start.wait()
        try:
            while not self._stop.is_set():
                start = time.perf_counter()
                call(picture)
                self._calls.append((start, time.perf_counter()))
                picture += 1
        except BaseException as error:
            self._failures.append(error)
            self._stop.set()
