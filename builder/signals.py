"""A signal that asks for the end, as an exception: what is half done is undone on the way out."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class Interrupted(KeyboardInterrupt):
    """A signal asks for the end."""

    def __init__(self, number: int) -> None:
        """Remember the signal's number."""
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number
        """What a shell reports for a command that this signal ended."""


class Interruption:
    """Whether a signal has come: an exception that it raises while a C extension is imported is lost."""

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextlib.contextmanager
def interrupted_by(*signals: signal.Signals) -> Iterator[Interruption]:
    """Turn the first of these signals into a KeyboardInterrupt, and let no further one disturb the way out."""
    interruption = Interruption()

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        interruption.number = number
        raise Interrupted(number)

    previous = {each: signal.signal(each, interrupt) for each in signals}
    try:
        yield interruption
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
