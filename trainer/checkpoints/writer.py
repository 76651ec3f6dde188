"""Writes a run's checkpoints beside the training, and removes those that need not be kept.

The training pays for the copy of its state (``snapshot.take``: some 0.5 ms per MB) and for what the thread takes of a
core (some 3 ms per MB: archive, sha256, file, fsync), which lets the interpreter go on meanwhile. At most three copies
are in memory: one that is being made, one that waits, one that is being written.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from trainer.checkpoints.file import CheckpointMeta, read_record, sidecar, states, sweep, write_checkpoint
from trainer.checkpoints.retention import Retention
from trainer.errors import CheckpointError

Say = Callable[[str], None]


class Store(Protocol):
    """Takes copies of checkpoints away from this machine, see ``trainer.checkpoints.stores``."""

    def submit(self, path: Path, meta: CheckpointMeta) -> None:
        """Have a checkpoint taken away; returns at once, and nothing is raised."""

    def close(self, timeout_s: float | None = None) -> bool:
        """Wait for what was submitted; whether all of it has arrived."""


def say_nothing(line: str) -> None:
    """For those whom nobody listens to."""


def told_if_possible(say: Say) -> Say:
    """``say`` for a thread that goes on where nothing can be said, as into a file on a full disk."""

    def tell(line: str) -> None:
        with contextlib.suppress(Exception):
            say(line)

    return tell


class CheckpointWriter:
    """Takes copies of the training's state and has them on the disk; nothing it meets stops the training."""

    def __init__(self, folder: Path, keep: Retention, say: Say = say_nothing) -> None:
        """Write into ``folder``, which need not be there; ``say`` is told what was not written, once per cause."""
        self._folder, self._keep, self._say = folder, keep, told_if_possible(say)
        self._stores: tuple[Store, ...] = ()
        self._changed = threading.Condition()
        self._waiting: tuple[Mapping[str, Any], CheckpointMeta] | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self._written: list[CheckpointMeta] | None = None
        self._told: set[str] = set()
        self.failures: list[str] = []
        """Why checkpoints were not written, in order."""
        self.dropped = 0
        """Checkpoints that a newer one took the place of, before their turn came."""

    def copy_to(self, stores: Sequence[Store]) -> None:
        """Have each checkpoint that is written from now on taken to ``stores`` too."""
        self._stores = tuple(stores)

    def submit(self, state: Mapping[str, Any], meta: CheckpointMeta) -> None:
        """Have a checkpoint written; returns at once.

        ``state`` is a copy that nobody changes any more. While another is being written the newest waits.
        """
        with self._changed:
            assert not self._closing, "nothing is submitted to a writer that is closed"
            if self._waiting is not None:
                self.dropped += 1
            self._waiting = (state, meta)
            if self._thread is None:
                # A daemon: a disk that hangs must not keep the program from ending.
                self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was submitted is written and has arrived in the stores; whether that is so."""
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                self._fail(f"a checkpoint in {self._folder} was not written within {timeout_s:g} s.", "slow")
                return False
        if self.dropped:
            self._say(f"{self.dropped} checkpoint(s) were due before the one before was written, and left out")
            self.dropped = 0
        arrived = True
        for store in self._stores:
            left_s = None if deadline_s is None else max(deadline_s - time.monotonic(), 0.0)
            arrived = store.close(left_s) and arrived
        return arrived

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._closing:
                    self._changed.wait()
                if self._waiting is None:
                    return
                state, meta = self._waiting
                self._waiting = None
            self._write(state, meta)
            # Its memory is free while this thread waits.
            del state

    def _write(self, state: Mapping[str, Any], meta: CheckpointMeta) -> None:
        try:
            if self._written is None:
                sweep(self._folder)
                self._written = self._found(before=meta.name)
            path = write_checkpoint(self._folder, state, meta)
        except CheckpointError as e:
            # The names differ from one to the next; the system's own words are the cause.
            self._fail(str(e), str(getattr(e.__cause__, "strerror", None) or e))
            return
        except Exception as e:  # the training has not to end for what cannot be written
            self._fail(f"the checkpoint {meta.name} was not written: {type(e).__name__}: {e}.", type(e).__name__)
            return
        self._told.clear()
        self._written = [*(each for each in self._written if each.name != meta.name), meta]
        for store in self._stores:
            store.submit(path, meta)
        self._remove_old()

    def _found(self, before: str) -> list[CheckpointMeta]:
        """Those of the run's earlier parts; a later one than the training has come to does not verify."""
        metas = []
        for path in states(self._folder):
            with contextlib.suppress(CheckpointError):
                if path.stem < before:
                    metas.append(read_record(path).meta)
        return metas

    def _remove_old(self) -> None:
        assert self._written is not None, "something was written"
        kept = self._keep.kept(self._written)
        for meta in self._written:
            if meta.name not in kept:
                path = self._folder / f"{meta.name}.pt"
                with contextlib.suppress(OSError):
                    sidecar(path).unlink(missing_ok=True)
                    path.unlink(missing_ok=True)
        self._written = [meta for meta in self._written if meta.name in kept]

    def _fail(self, message: str, cause: str) -> None:
        self.failures.append(message)
        if cause not in self._told:
            self._told.add(cause)
            self._say(f"{message} The training goes on.")
