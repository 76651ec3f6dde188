"""Signals that ask for the end."""

import signal
import subprocess
import sys

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
