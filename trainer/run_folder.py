"""A run's folder belongs to one training at a time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from builder.durable import locked
from builder.errors import SpecError
from trainer.checkpoints.file import newest_valid, states
from trainer.errors import CheckpointError
from trainer.launch import RUN_ID
from trainer.settings import TrainSettings, settings_from_json

SETTINGS = "settings.json"
CHECKPOINTS = "checkpoints"


def stored_settings(run: Path) -> TrainSettings | None:
    """The settings that a run was begun with, of its folder or its newest checkpoint; None where there is no run."""
    try:
        return settings_from_json(json.loads((run / SETTINGS).read_bytes()))
    except FileNotFoundError:
        pass
    except (ValueError, TypeError) as e:
        raise CheckpointError(f"{run / SETTINGS} is damaged ({e}); restore it, or begin another run.") from e
    found = newest_valid(run / CHECKPOINTS)
    return settings_from_json(found.meta.arguments) if found else None


def holds_run(folder: Path) -> bool:
    """Whether a training was begun there."""
    return (folder / SETTINGS).exists() or bool(states(folder / CHECKPOINTS))


@contextlib.contextmanager
def nothing_left_behind(folder: Path) -> Iterator[None]:
    """Remove what was made in a new folder where no run was begun in it."""
    new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    try:
        yield
    finally:
        if new and not holds_run(folder):
            shutil.rmtree(folder, ignore_errors=True)


def lock_of(folder: Path) -> Path:
    """The file beside a run's folder that a training holds locked as long as it writes there."""
    folder = folder.absolute()
    return folder.with_name(f".{folder.name}.lock")


@contextlib.contextmanager
def held(folder: Path, what: str = "training") -> Iterator[None]:
    """Keep every other out of the folder of a training or search; of torchrun's processes the first does so for all.

    Raises:
        SpecError: another has it.
        OSError: the folders above it cannot be made.
    """
    launched = os.environ.get("TORCHELASTIC_RUN_ID") == RUN_ID
    if launched or os.environ.get("RANK", "0") != "0":
        yield
        return
    with contextlib.ExitStack() as holding:
        try:
            holding.enter_context(locked(lock_of(folder), 0))
        except TimeoutError as e:
            raise SpecError(
                f"another {what} runs in {folder}: wait for its end, or end it; or name another folder."
            ) from e
        yield
