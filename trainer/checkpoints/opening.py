"""The stores of a run that begins or goes on: a slip is told before the training, a store that is lost stops none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.errors import SpecError
from trainer.checkpoints.file import Found, newest_valid
from trainer.checkpoints.remote import Remote
from trainer.checkpoints.restore import restore
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.stores import FsspecStore
from trainer.checkpoints.writer import Say
from trainer.errors import StoreError


def open_stores(
    addresses: Sequence[str], run: str, *, keep: Retention, key: bytes | None, goes_on: bool, say: Say
) -> tuple[FsspecStore, ...]:
    """The stores at ``addresses``; a new run wants them to answer, one that goes on is told what fails.

    Raises:
        SpecError: an address is wrong, or holds another run of this name.
        StoreError: a new run's store refuses.
    """
    stores = []
    for address in addresses:
        remote = Remote(address, run)
        try:
            remote.check()
            if not goes_on and remote.checkpoints():
                raise SpecError(
                    f"--store {address} holds checkpoints of a run {run!r} already: go on with it (python -m trainer "
                    "restore, then train --resume), or give --run another name."
                )
        except StoreError as e:
            if not goes_on:
                raise
            say(f"warning: {e} It is tried again with each checkpoint.")
        stores.append(FsspecStore(remote, keep=keep, key=key, say=say))
    return tuple(stores)


def bring_back(addresses: Sequence[str], run: str, folder: Path, *, key: bytes | None, say: Say) -> Found | None:
    """The newest checkpoint of the first store that has the run; None where none has.

    Raises:
        SealError: it is sealed, and the key is missing or another.
        CheckpointError: a store has checkpoints, and none verifies.
    """
    for address in addresses:
        remote = Remote(address, run)
        try:
            if remote.checkpoints() and restore(remote, folder, key=key, say=say) is not None:
                say(f"brought back from {address}")
                return newest_valid(folder)
        except StoreError as e:
            say(f"warning: {e}")
    return None
