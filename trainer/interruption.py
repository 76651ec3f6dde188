"""SIGTERM and SIGINT: the step is finished and saved within a grace; a second signal ends at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

from builder.signals import Interrupted

_SAME_S = 1.0
"""torchrun passes on a Ctrl-C that the terminal has already sent to every process: that is one signal, not two."""


class Interruption:
    """Whether a signal has asked for the end."""

    def __init__(self, grace_s: float) -> None:
        """Do nothing yet; ``watch`` listens."""
        self.number = 0
        """The signal's; 0: none has come."""
        self._grace_s = grace_s
        self._came_s = 0.0
        self._training = False

    def watch(self) -> None:
        """Listen for SIGTERM and SIGINT; until ``begin`` they end the program at once, there is nothing to save."""
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._handle)

    def begin(self) -> None:
        """From now on there is something to save."""
        self._training = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._training:
            raise Interrupted(number)
        now_s = time.monotonic()
        if self.number:
            if now_s - self._came_s >= _SAME_S:
                _end(number, "a second signal: ended at once; the newest checkpoint stays")
            return
        self.number, self._came_s = number, now_s
        timer = threading.Timer(
            self._grace_s, _end, (number, f"the {self._grace_s:g} s of --grace-s are over; the newest checkpoint stays")
        )
        timer.daemon = True
        timer.start()


def _end(number: int, message: str) -> None:
    # No clean-up: what is half written has another name than a checkpoint.
    print(message, file=sys.stderr, flush=True)
    os._exit(128 + number)
