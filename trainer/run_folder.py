"""A run's folder belongs to one training at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from builder.durable import locked, make_folders
from builder.errors import SpecError
from trainer.launch import RUN_ID


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
    with contextlib.ExitStack() as undo:
        make_folders(lock_of(folder).parent, undo)
        try:
            undo.enter_context(locked(lock_of(folder), 0))
        except TimeoutError as e:
            raise SpecError(
                f"another {what} runs in {folder}: wait for its end, or end it; or name another folder."
            ) from e
        yield
