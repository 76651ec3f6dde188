"""A signal whose exception is lost ends a training all the same."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

import pytest

from builder.signals import Interrupted
from trainer.interruption import Interruption
from trainer.run_folder import nothing_left_behind


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


def test_second_signal_in_a_moment_does_not_disturb_the_way_out(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def set_up() -> None:
        with contextlib.ExitStack() as leaving:
            leaving.enter_context(nothing_left_behind(run))
            leaving.callback(signal.raise_signal, signal.SIGTERM)
            run.mkdir()
            (run / "args.yaml").touch()
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match="SIGINT"), Interruption(grace_s=60):
        set_up()
    assert not run.exists()


def test_processes_begin_together_or_leave_together() -> None:
    with Interruption(grace_s=60) as interruption, pytest.raises(Interrupted, match="SIGTERM"):
        # This process knows of no signal, another does.
        interruption.begin(lambda number: max(number, signal.SIGTERM))

    def signalled(number: int) -> int:
        # Only after the others were told that there is none.
        signal.raise_signal(signal.SIGTERM)
        return number

    with Interruption(grace_s=60) as interruption:
        interruption.begin(signalled)
        assert interruption.number == signal.SIGTERM


def test_who_is_asked_after_the_end_is_not_ended_by_the_grace() -> None:
    with Interruption(grace_s=60) as interruption:
        interruption.begin()
    interruption.ask(signal.SIGTERM)
    # No timer runs, which nobody would stop.
    assert interruption.number == 0
