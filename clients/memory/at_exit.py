"""Takes down at a process's end what would outlive it, when nobody has done so before.

That is at the interpreter's exit, and by SIGTERM, which is caught only where nothing else does so when the first thing
is made in the main thread: the process still ends by the signal, as it would have.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from types import FrameType
from typing import Protocol

EXIT_TIMEOUT_S = 5.0
TERMINATED_TIMEOUT_S = 2.0


class Closeable(Protocol):
    """What outlives a process."""

    def close(self, timeout_s: float) -> None:
        """Take it down, within about so many seconds."""


_open: set[Closeable] = set()


def close_at_exit(thing: Closeable) -> None:
    """Close it at the process's end, unless :func:`closed` comes first."""
    _open.add(thing)
    main = threading.current_thread() is threading.main_thread()
    if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)


def closed(thing: Closeable) -> None:
    """It needs no closing any more."""
    _open.discard(thing)


@atexit.register
def _close_all(timeout_s: float = EXIT_TIMEOUT_S) -> None:
    for thing in list(_open):
        thing.close(timeout_s)


def _terminated(number: int, frame: FrameType | None) -> None:
    # In a thread: what was interrupted may hold a lock that closing needs.
    closing = threading.Thread(target=_close_all, args=(TERMINATED_TIMEOUT_S,), daemon=True)
    closing.start()
    closing.join(TERMINATED_TIMEOUT_S)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
