"""SIGTERM and SIGINT: the step is finished and saved within a grace; a second signal ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from builder.signals import Interrupted, lost_in_silence

_LOOK_S = 0.25
_SAME_S = 1.0
"""torchrun passes on a Ctrl-C that the terminal has already sent to every process: that is one signal, not two."""


class Interruption:
    """Whether a signal has asked for the end."""

    def __init__(self, grace_s: float) -> None:
        """Do nothing yet; entered, it listens."""
        self.number = 0
        """The signal's; 0: none has come."""
        self._grace_s = grace_s
        self._came_s = 0.0
        self._training, self._over = False, False
        self._timer: threading.Timer | None = None
        self._previous: dict[int, Any] = {}
        self._leaving = contextlib.ExitStack()

    def __enter__(self) -> Interruption:
        """Listen for SIGTERM and SIGINT; until ``begin`` they end the program at once, there is nothing to save."""
        # Where a training is a thread of another program (Ray Train), the signals are that program's.
        if threading.current_thread() is threading.main_thread():
            self._leaving.enter_context(lost_in_silence())
            for each in (signal.SIGTERM, signal.SIGINT):
                self._previous[each] = signal.signal(each, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Listen no more; an error of the set-up that comes after a signal is told as the signal.

        Raises:
            Interrupted: instead of that error.
        """
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        for each, handler in self._previous.items():
            signal.signal(each, handler)
        self._leaving.close()
        if isinstance(error, Exception) and self.number and not self._training:
            # Where an import is interrupted, its C code may say that it failed.
            raise Interrupted(self.number) from error

    def begin(self, together: Callable[[int], int] = int) -> None:
        """From now on there is something to save.

        ``together`` is given the signal that this process knows of, and gives the one that any process does: who left
        alone would be waited for.

        Raises:
            Interrupted: the end was asked for before.
        """
        # A signal that comes while the others are asked is heeded at the first step.
        self._training = True
        try:
            if number := together(self.number):
                # This process's own may be on its way, and is the same.
                self.number, self._came_s = number, time.monotonic()
                raise Interrupted(number)
        except BaseException:
            self._training = False
            raise

    def ask(self, number: int) -> None:
        """Have the training saved and left as by this signal; for a program that has the signals itself."""
        if self.number or self._over:
            return
        self.number, self._came_s = number, time.monotonic()
        self._timer = threading.Timer(
            self._grace_s, _end, (number, f"the {self._grace_s:g} s of --grace-s are over; the newest checkpoint stays")
        )
        self._timer.daemon = True
        self._timer.start()

    @contextlib.contextmanager
    def asked_by(self, number: Callable[[], int]) -> Iterator[None]:
        """Look again and again, in a thread, whether ``number`` gives a signal's, and ask then."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(_LOOK_S):
                if (found := number()) and not over.is_set():
                    self.ask(found)
                    return

        looking = threading.Thread(target=look, name="interruption", daemon=True)
        looking.start()
        try:
            yield
        finally:
            over.set()
            # Who is asked may be another machine, and gone.
            looking.join(_LOOK_S)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._training:
            if self.number and time.monotonic() - self._came_s < _SAME_S:
                return  # what the first has set going, such as the removal of folders, is not disturbed
            # An exception that falls into an import's own callbacks is lost; ``begin`` raises it again.
            self.number, self._came_s = self.number or number, time.monotonic()
            raise Interrupted(number)
        if self.number and time.monotonic() - self._came_s >= _SAME_S:
            _end(number, "a second signal: ended at once; the newest checkpoint stays")
        self.ask(number)


def _end(number: int, message: str) -> None:
    # No clean-up: what is half written has another name than a checkpoint.
    print(message, file=sys.stderr, flush=True)
    os._exit(128 + number)
