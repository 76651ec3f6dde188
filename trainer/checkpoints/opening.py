"""The stores of a run that begins or goes on: a slip is told before the training, a store that is lost stops none."""

from __future__ import annotations

from pathlib import Path

from builder.errors import SpecError
from trainer.checkpoints.file import Found, newest_valid
from trainer.checkpoints.finished import copy_finished
from trainer.checkpoints.remote import Remote
from trainer.checkpoints.restore import restore
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.sealing import read_key
from trainer.checkpoints.stores import FsspecStore
from trainer.checkpoints.writer import Say
from trainer.errors import StoreError
from trainer.settings import TrainSettings


def open_stores(settings: TrainSettings, goes_on: bool, say: Say) -> list[FsspecStore]:
    """The stores of a run; a new one wants them to answer, one that goes on is told when its copies fail.

    Raises:
        SpecError: an address or the key is wrong, or the store holds another run of this name.
        StoreError: a new run's store refuses.
    """
    keep = Retention(last=settings.keep_last, every=settings.keep_every)
    key = read_key(settings.store_key_file) if settings.stores else None
    stores = []
    for remote in _remotes(settings):
        if not goes_on:
            remote.check()
            if remote.checkpoints():
                raise SpecError(
                    f"--store {remote.address} holds checkpoints of a run {remote.run!r} already: go on with it by "
                    "--resume, or give --run another name."
                )
        stores.append(FsspecStore(remote, keep=keep, key=key, say=say))
    return stores


def bring_back(settings: TrainSettings, folder: Path, say: Say) -> Found | None:
    """The newest checkpoint of the first store that has the run, now in ``folder``; None where none has.

    Raises:
        SealError: it is sealed, and the key is missing or another.
        CheckpointError: a store has checkpoints, and none verifies.
    """
    for remote in _remotes(settings):
        try:
            if remote.checkpoints():
                if restore(remote, folder, key=read_key(settings.store_key_file), say=say):
                    say(f"brought back from {remote.address}")
                return newest_valid(folder)
        except StoreError as e:
            say(f"warning: {e}")
    return None


def copy_results(settings: TrainSettings, say: Say) -> None:
    """Have run.json and the weights of a finished run at its stores; what fails is told."""
    try:
        copy_finished(_remotes(settings), settings.run, key=read_key(settings.store_key_file), say=say)
    except SpecError as e:
        say(f"warning: {settings.run} was not copied to its stores: {e}")


def _remotes(settings: TrainSettings) -> list[Remote]:
    run = settings.run.resolve().name
    return [Remote(address, run) for address in settings.stores]
