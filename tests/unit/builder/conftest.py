"""What several tests of the builder use."""

from __future__ import annotations

import errno
import fcntl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Overtaken = Callable[[Path, Callable[[], object]], list[bool]]


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Overtaken]:
    """``overtaken(folder, other)``: as this thread moves the folder away, ``other`` runs in another one.

    This one goes on as soon as the other has ended or waits for a lock; the list says whether it had ended.
    """
    rename, sleep = Path.rename, time.sleep
    threads: list[threading.Thread] = []

    def prepare(folder: Path, other: Callable[[], object]) -> list[bool]:
        thread = threading.Thread(target=other)
        waits, ended = threading.Event(), []

        def wait_for_a_lock(seconds: float) -> None:
            waits.set()
            sleep(seconds)

        def rename_beside_the_other(path: Path, target: Path) -> Path:
            if path != folder or threading.current_thread() is thread:
                return rename(path, target)
            thread.start()
            threads.append(thread)
            while thread.is_alive() and not waits.is_set():
                thread.join(0.01)
            ended.append(not thread.is_alive())
            return rename(path, target)

        monkeypatch.setattr(time, "sleep", wait_for_a_lock)
        monkeypatch.setattr(Path, "rename", rename_beside_the_other)
        return ended

    yield prepare
    for each in threads:
        each.join()


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
