"""Threads of a measurement that end with it, however it ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence


@contextlib.contextmanager
def running(threads: Sequence[threading.Thread], stop: Callable[[], object]) -> Iterator[None]:
    """Start the threads; at the end, a signal as they start included, ``stop`` them and wait for those that run."""
    try:
        for thread in threads:
            thread.start()
        yield
    finally:
        stop()
        for thread in threads:
            if thread.is_alive():
                thread.join()
