"""Brings a run's checkpoints back from a store, to a machine that has never seen it."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from builder.durable import sync
from builder.errors import SpecError
from trainer.checkpoints.file import CheckpointMeta, newest_valid, publish, temporary_file
from trainer.checkpoints.remote import NotThereError, RefusedError, Remote
from trainer.checkpoints.sealing import unseal
from trainer.checkpoints.stored import Stored, parse_stored, state_label
from trainer.checkpoints.stores import Retries
from trainer.checkpoints.writer import Say
from trainer.errors import CheckpointError, SealError, StoreError

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What was brought back."""

    path: Path
    """The newest checkpoint that verifies."""
    meta: CheckpointMeta
    passed_over: tuple[tuple[str, str], ...]
    """Newer ones that do not verify, and why."""
    best: Path | None
    """The checkpoint of the best validated epoch, where that is another and verifies: it holds the best weights."""


class DamagedError(CheckpointError):
    """What arrived is not what was sent."""


class Again:
    """Asks a store again where it fails, or where what arrives is not what was sent."""

    def __init__(self, retries: Retries, say: Say) -> None:
        """``say`` is told of each failure that is tried again."""
        self._retries, self._say = retries, say

    def __call__(self, work: Callable[[], Value]) -> Value:
        """What ``work`` gives; raises what it raises when it has failed too often, or is refused."""
        attempts = 0
        while True:
            try:
                return work()
            except RefusedError:
                raise
            except (StoreError, DamagedError) as e:
                attempts += 1
                if attempts >= self._retries.attempts:
                    raise
                self._say(f"{e} It is tried again.")
                time.sleep(self._retries.wait_s(attempts))


def restore(
    remote: Remote, folder: Path, *, key: bytes | None, say: Say, retries: Retries | None = None
) -> Restored | None:
    """Write the newest checkpoint that verifies, and the best, into ``folder``; None where it has as new a one.

    Raises:
        SpecError: the store has no such run.
        SealError: the run is sealed, and the key is missing or another.
        StoreError: the store cannot be reached.
        CheckpointError: none verifies, or one cannot be written here.
    """
    again = Again(retries or Retries(), say)
    names = again(remote.checkpoints)
    if not names:
        runs = again(remote.runs)
        there = f"there are: {', '.join(runs[:20])}" if runs else "it holds no run"
        raise SpecError(f"the store {remote.address} holds no checkpoint of {remote.run!r}; {there}.")
    here = _newest_here(folder)
    if here is not None and here.name >= names[-1]:
        say(f"{folder} holds {here.name}, and the store nothing newer")
        return None
    passed_over: list[tuple[str, str]] = []
    taken: Stored | None = None
    others: list[Stored] = []
    for name in reversed(names):
        try:
            stored = again(functools.partial(_read, remote, name, key))
            if taken is None:
                fetch(remote, stored, folder, key=key, again=again)
                taken = stored
            else:
                others.append(stored)
        except SealError:
            raise
        except OSError as e:
            raise CheckpointError(f"{folder / name}.pt was not written: {e.strerror or e}.") from e
        except CheckpointError as e:
            if isinstance(e, StoreError) and not isinstance(e, NotThereError):
                raise
            if taken is None:
                passed_over.append((name, str(e)))
                say(f"passed over {name}: {e}")
    if taken is None:
        raise CheckpointError(
            f"the store {remote.address} holds {len(names)} checkpoint(s) of {remote.run} and none that verifies: "
            f"{'; '.join(text for _, text in passed_over[:3])}"
        )
    meta = taken.record.meta
    best = _fetch_best(remote, taken, others, folder, key=key, again=again, say=say)
    return Restored(path=folder / f"{meta.name}.pt", meta=meta, passed_over=tuple(passed_over), best=best)


def fetch(remote: Remote, stored: Stored, folder: Path, *, key: bytes | None, again: Again) -> Path:
    """Write one checkpoint of the store into ``folder``; its path.

    Raises:
        CheckpointError: what arrives is never what was sent, or does not open.
        OSError: it cannot be written here.
    """
    path = folder / f"{stored.record.meta.name}.pt"
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_file(path) as plain, temporary_file(path.with_suffix(".sealed")) as sealed:
        arrived = sealed if stored.is_sealed else plain
        again(lambda: _download(remote, stored, arrived))
        if stored.is_sealed:
            _unseal_file(sealed, plain, stored, key, remote.run)
        sync(plain)
        publish(plain, path, stored.record)
    return path


def _read(remote: Remote, name: str, key: bytes | None) -> Stored:
    content = remote.read(f"{name}.json")
    try:
        return parse_stored(content, key, remote.run, name)
    except SealError:
        raise
    except CheckpointError as e:
        raise DamagedError(str(e)) from e


def _download(remote: Remote, stored: Stored, local: Path) -> None:
    remote.get(stored.object_name, local)
    name = stored.object_name
    if (size := local.stat().st_size) != stored.size_bytes:
        raise DamagedError(f"{name} is cut short: expected {stored.size_bytes} bytes, got {size}.")
    with local.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != stored.sha256:
            raise DamagedError(f"{name} is damaged: its sha256 is not that of its sidecar.")


def _unseal_file(sealed: Path, plain: Path, stored: Stored, key: bytes | None, run: str) -> None:
    assert key is not None, "its sidecar was unsealed with it"
    with sealed.open("rb") as source, plain.open("wb") as target:
        unseal(source, target, key, state_label(run, stored.record))
    with plain.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != stored.record.sha256:
            raise CheckpointError(f"{stored.object_name} holds another state than its sidecar says.")


def _fetch_best(
    remote: Remote,
    taken: Stored,
    others: list[Stored],
    folder: Path,
    *,
    key: bytes | None,
    again: Again,
    say: Say,
) -> Path | None:
    validated = [each for each in [*reversed(others), taken] if each.record.meta.fitness is not None]
    best = max(validated, key=lambda each: each.record.meta.fitness or 0.0, default=taken)
    if best is taken:
        return None
    try:
        return fetch(remote, best, folder, key=key, again=again)
    except (CheckpointError, OSError) as e:
        # The training goes on without it; its best weights may come again.
        say(f"the best checkpoint was not brought back: {e}")
        return None


def _newest_here(folder: Path) -> CheckpointMeta | None:
    try:
        found = newest_valid(folder)
    except CheckpointError:
        return None
    return found.meta if found else None
