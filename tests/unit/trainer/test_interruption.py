"""A signal whose exception is lost ends a training all the same."""

from __future__ import annotations

import signal

import pytest

from builder.signals import Interrupted
from trainer.interruption import Interruption


class SignalledInItsEnd:
    """An object whose end a signal comes into, where an exception is lost."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_training_does_not_begin_after_a_signal_that_was_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with Interruption(grace_s=60) as interruption:
        SignalledInItsEnd()
        with pytest.raises(Interrupted) as raised:
            interruption.begin()
    assert raised.value.exit_code == 128 + signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_error_of_a_set_up_that_a_lost_signal_has_broken_is_told_as_the_signal() -> None:
    def set_up() -> None:
        SignalledInItsEnd()
        raise ImportError("numpy.core.multiarray failed to import")

    with pytest.raises(Interrupted, match="SIGTERM"), Interruption(grace_s=60):
        set_up()


def test_error_without_a_signal_stays_what_it_is() -> None:
    with pytest.raises(ImportError, match="no such module"), Interruption(grace_s=60):
        raise ImportError("no such module")
