"""Signals that ask for the end."""

import os
import signal

import pytest

from builder.signals import Interrupted, interrupted_by


def test_a_signal_whose_exception_was_lost_is_found_at_the_next_check():
    with interrupted_by(signal.SIGTERM) as interruption:
        interruption.check()
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 1)
        except KeyboardInterrupt:
            pass  # as some C extensions do while they are imported
        with pytest.raises(Interrupted) as caught:
            interruption.check()
    assert caught.value.exit_code == 128 + signal.SIGTERM
