"""A signal that asks for the end, as an exception: what is half done is undone on the way out."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
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
    """Whether a signal has come: the exception that it raises is lost in a callback of the interpreter's own.

    Such are a ``__del__``, what ends an import's lock, and a C extension's import: whoever works on has to ``check``.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.number is not None:
            raise Interrupted(self.number)


@contextlib.contextmanager
def interrupted_by(*signals: signal.Signals) -> Iterator[Interruption]:
    """Turn the first of these signals into a KeyboardInterrupt, and let no further one disturb the way out.

    Raises:
        Interrupted: by the signal; also in the place of an error that comes after it.
    """
    interruption = Interruption()

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        for each in signals:
            # No SIG_IGN: a process that is started on the way would ignore the signal, too.
            signal.signal(each, _do_nothing)
        interruption.number = number
        raise Interrupted(number)

    previous = {each: signal.signal(each, interrupt) for each in signals}
    try:
        with lost_in_silence():
            yield interruption
    except Exception:
        # Where an import is interrupted, its C code may say instead that it failed.
        interruption.check()
        raise
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def held_back(*signals: signal.Signals) -> Iterator[None]:
    """Have what these signals do come at the block's end: a process that is being started could be ended by nobody."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler runs here
        return
    came: list[int] = []
    previous = {each: signal.signal(each, lambda number, _: came.append(number)) for each in signals}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
        for number in came:
            signal.raise_signal(number)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Handle a signal that comes after the first."""


@contextlib.contextmanager
def lost_in_silence() -> Iterator[None]:
    """Have no call stack printed of an Interrupted that is lost; its signal is remembered."""
    previous = sys.unraisablehook

    def tell(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, Interrupted):
            previous(unraisable)

    sys.unraisablehook = tell
    try:
        yield
    finally:
        sys.unraisablehook = previous
