"""Waiting for what comes true by itself."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(is_so: Callable[[], bool]) -> bool:
    """Whether it comes true before patience ends."""
    give_up = time.monotonic() + 60
    while not is_so():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def wait_until(condition: Callable[[], object]) -> None:
    """Return when it is so; fail where it does not come true."""
    assert eventually(lambda: bool(condition())), "it never came true"
