"""Copies checkpoints away from the machine, beside the training, as long as it takes.

A state is uploaded first, its sidecar when it has arrived: what was interrupted is never taken for a checkpoint. While
the store fails, the newest checkpoint and the best of those that have not arrived wait; a store that is lost costs the
training nothing but its copies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoints.file import CheckpointMeta, Record, read_record, temporary_file
from trainer.checkpoints.remote import Remote, reason
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.sealing import seal
from trainer.checkpoints.stored import Stored, object_name, parse_stored, state_label
from trainer.checkpoints.writer import Say, say_nothing, told_if_possible
from trainer.errors import CheckpointError, StoreError

_TOLD_AFTER = 3
"""Attempts that may fail in a row before it is worth a line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """When a failed upload is tried again."""

    first_s: float = 1.0
    """The longest wait after the first failure; it doubles."""
    longest_s: float = 60.0
    attempts: int = 6
    """Once the training has ended, and of a restore; before, it is tried as long as nothing newer waits."""

    def wait_s(self, attempts: int) -> float:
        """A random part of the wait, so that many machines do not come back at once."""
        longest_s: float = min(self.longest_s, self.first_s * 2.0 ** min(attempts - 1, 30))
        return longest_s * random.uniform(0.5, 1.0)  # noqa: S311 (it hides nothing)


@dataclass(slots=True)
class _Upload:
    meta: CheckpointMeta
    record: Record
    link: Path
    """A second name of the state, which stays where the first is removed."""
    number: int
    """In the order in which they were submitted."""
    attempts: int = 0
    attempts_at_the_end: int = 0


class FsspecStore:
    """The copies of one run's checkpoints at one address."""

    def __init__(
        self,
        remote: Remote,
        *,
        keep: Retention,
        key: bytes | None = None,
        retries: Retries | None = None,
        say: Say = say_nothing,
    ) -> None:
        """With a key, all is sealed; ``say`` is told when the store fails and when it answers again."""
        self._remote, self._keep, self._key, self._say = remote, keep, key, told_if_possible(say)
        self._retries = retries or Retries()
        self._changed = threading.Condition()
        self._waiting: list[_Upload] = []
        self._closing = False
        self._thread: threading.Thread | None = None
        self._submitted = 0
        self._there: dict[str, tuple[int, Stored]] | None = None
        # By name: the number of the upload, below 0 for those of earlier parts, and what it is.
        self._failing = False
        self._failed_in_a_row = 0
        self.failures: list[str] = []
        """Why attempts failed, in order."""
        self.arrived = 0
        self.dropped = 0
        """Checkpoints that a newer one took the place of, before they had arrived."""

    def submit(self, path: Path, meta: CheckpointMeta) -> None:
        """Have a checkpoint uploaded; returns at once, and nothing is raised."""
        link = path.with_name(f".{path.name}.{os.getpid()}.{id(self)}.tmp")
        try:
            record = read_record(path)
            _link(path, link)
        except (OSError, CheckpointError) as e:
            self._fail(f"{path.name} was not taken to {self._remote.address}: {reason(e)}.", worth_telling=True)
            return
        with self._changed:
            self._submitted += 1
            self._put_in_line([*self._waiting, _Upload(meta, record, link, self._submitted)])
            if self._thread is None:
                # A daemon: a store that hangs must not keep the program from ending.
                self._thread = threading.Thread(target=self._work, name="store", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self, timeout_s: float | None = None) -> bool:
        """Wait until what was submitted has arrived, or has failed too often; whether all of it has arrived."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        with self._changed:
            left = [each.meta.name for each in self._waiting]
            if self._thread is not None and self._thread.is_alive():
                left.append("another")
            for each in self._waiting:
                _remove(each.link)
            self._waiting = []
        if left or self._failing:
            self._say(f"warning: {self._remote.address} does not have the newest checkpoint of {self._remote.run}.")
        return not (left or self._failing)

    def _put_in_line(self, waiting: Sequence[_Upload]) -> None:
        """Keep the newest and the best of those that have not arrived, the newest last."""
        validated = [each for each in waiting if each.meta.fitness is not None]
        best = max(validated, key=lambda each: each.meta.fitness or 0.0, default=None)
        kept = [each for each in waiting if each is best or each is waiting[-1]]
        for each in waiting:
            if each not in kept:
                _remove(each.link)
                self.dropped += 1
        self._waiting = kept

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting:
                    return
                upload = self._waiting.pop()
            if self._deliver(upload):
                _remove(upload.link)

    def _deliver(self, upload: _Upload) -> bool:
        """Whether the upload is done with: it has arrived, or it is given up; if not, it is in line again."""
        while True:
            try:
                self._upload(upload)
            except Exception as e:  # nothing that a store does may end the training
                upload.attempts += 1
                upload.attempts_at_the_end += self._closing
                text = str(e) if isinstance(e, CheckpointError) else f"{self._remote.address}: {reason(e)}."
                self._failed_in_a_row += 1
                self._fail(text, worth_telling=self._failed_in_a_row >= _TOLD_AFTER)
            else:
                self._arrive()
                return True
            if upload.attempts_at_the_end >= self._retries.attempts:
                self._failing = True
                return True
            if self._closing:
                time.sleep(self._retries.wait_s(upload.attempts_at_the_end))
                continue
            with self._changed:
                self._changed.wait(self._retries.wait_s(upload.attempts))
                if not self._closing and self._waiting and self._waiting[-1].number > upload.number:
                    self._put_in_line([upload, *self._waiting])
                    return False

    def _upload(self, upload: _Upload) -> None:
        if self._there is None:
            self._there = self._read_all()
        name, source = upload.meta.name, upload.link
        stored = Stored(
            record=upload.record,
            object_name=object_name(upload.record, sealed=self._key is not None),
            size_bytes=upload.record.size_bytes,
            sha256=upload.record.sha256,
        )
        with temporary_file(upload.link.with_suffix(".sealed")) as target:
            if self._key is not None:
                stored = _seal_file(source, target, self._key, stored, state_label(self._remote.run, upload.record))
                source = target
            self._remote.put(source, stored.object_name)
        self._remote.write(f"{name}.json", stored.to_bytes(self._key, self._remote.run))
        former = self._there.pop(name, None)
        self._there[name] = (upload.number, stored)
        if former is not None and former[1].object_name != stored.object_name:
            self._forget(former[1])
        self._remove_old()

    def _read_all(self) -> dict[str, tuple[int, Stored]]:
        """Those of the run's earlier parts; what cannot be read stays and does not count."""
        there = {}
        names = self._remote.checkpoints()
        for number, name in enumerate(names):
            content = self._remote.read(f"{name}.json")
            with contextlib.suppress(CheckpointError):
                there[name] = (number - len(names), parse_stored(content, self._key, self._remote.run, name))
        return there

    def _remove_old(self) -> None:
        assert self._there is not None, "something was uploaded"
        in_order = sorted(self._there.values(), key=lambda each: each[0])
        kept = self._keep.kept([stored.record.meta for _, stored in in_order])
        for name in [each for each in self._there if each not in kept]:
            _, stored = self._there.pop(name)
            with contextlib.suppress(StoreError):
                # The sidecar first: what has none is no checkpoint.
                self._remote.remove(f"{name}.json")
            self._forget(stored)

    def _forget(self, stored: Stored) -> None:
        """What cannot be removed costs room, and nothing else."""
        with contextlib.suppress(StoreError):
            self._remote.remove(stored.object_name)

    def _arrive(self) -> None:
        self.arrived += 1
        self._failed_in_a_row = 0
        if self._failing:
            self._failing = False
            self._say(f"{self._remote.address} has the newest checkpoint again")

    def _fail(self, message: str, *, worth_telling: bool) -> None:
        self.failures.append(message)
        if worth_telling and not self._failing:
            self._failing = True
            self._say(f"warning: {message} It is tried again; the training goes on.")


def _seal_file(source: Path, target: Path, key: bytes, stored: Stored, label: str) -> Stored:
    """What is stored, sealed; ``source`` is read once more to have its sha256."""
    with source.open("rb") as reader, target.open("wb") as writer:
        seal(reader, writer, key, label)
    with target.open("rb") as reader:
        sha256 = hashlib.file_digest(reader, "sha256").hexdigest()
    return dataclasses.replace(stored, size_bytes=target.stat().st_size, sha256=sha256)


def _link(path: Path, link: Path) -> None:
    try:
        os.link(path, link)
    except OSError:
        # Not every file system has second names.
        shutil.copyfile(path, link)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
