"""Signals that ask for the end."""

import signal
import subprocess
import sys

import pytest

from builder.signals import Interrupted, held_back, interrupted_by

LOST = """
import os, signal
from builder.signals import interrupted_by

with interrupted_by(signal.SIGTERM) as interruption:
    interruption.check()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    except KeyboardInterrupt:
        pass  # as some C extensions do while they are imported
    try:
        interruption.check()
    except KeyboardInterrupt as e:
        print(e.exit_code)
"""


def test_a_signal_whose_exception_was_lost_is_found_at_the_next_check():
    told = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=True, timeout=60).stdout
    assert int(told) == 128 + signal.SIGTERM


class Dying:
    """Does something as it is collected, where the interpreter drops whatever is raised."""

    def __init__(self, last_act):
        self.last_act = last_act

    def __del__(self):
        self.last_act()


@pytest.fixture
def told(monkeypatch):
    """What the interpreter tells of exceptions that it drops."""
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    return told


def test_a_signals_exception_that_the_interpreter_drops_is_not_told_and_found_at_the_next_check(told):
    with interrupted_by(signal.SIGTERM) as interruption:
        Dying(lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted):
            interruption.check()
    assert told == []


def test_another_exception_that_the_interpreter_drops_is_told_during_and_after(told):
    with interrupted_by(signal.SIGTERM):
        Dying(lambda: ().index(0))
    Dying(lambda: {}[0])
    assert [each.exc_type for each in told] == [ValueError, KeyError]


def test_an_error_in_the_place_of_the_signals_exception_is_told_as_the_signal():
    def fail_as_the_c_code_of_a_module_does():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError from None

    with pytest.raises(Interrupted) as caught, interrupted_by(signal.SIGTERM):
        fail_as_the_c_code_of_a_module_does()
    assert caught.value.exit_code == 128 + signal.SIGTERM


def test_an_error_without_a_signal_stays_itself():
    with pytest.raises(ImportError), interrupted_by(signal.SIGTERM):
        raise ImportError


def test_a_process_that_is_started_after_the_first_signal_can_be_ended_by_another():
    with interrupted_by(signal.SIGTERM):
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        with subprocess.Popen(["sleep", "60"]) as process:
            process.terminate()
    assert process.returncode == -signal.SIGTERM


def test_a_signal_that_is_held_back_comes_at_the_blocks_end():
    done = []

    def cut():
        with held_back(signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(signal.SIGTERM)
            done.append("what must not be cut")
        done.append("too late")

    with interrupted_by(signal.SIGTERM), pytest.raises(Interrupted):
        cut()
    assert done == ["what must not be cut"]


def test_held_back_changes_nothing_where_no_signal_comes():
    before = signal.getsignal(signal.SIGTERM)
    with held_back(signal.SIGTERM):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
