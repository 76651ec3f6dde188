"""What the commands share: where models are looked for, and the lines that are printed while they work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.cache import Stage

DEFAULT_REPOSITORY = Path("model_repository")


def stage_line(stage: Stage) -> str:
    """A line for a stage that has ended: its name, and how long it took."""
    how = "unchanged, reused" if stage.reused else f"{stage.seconds:.1f} s"
    return f"{stage.name:<11} {how}"


def show_progress(what: str, done: int, total: int) -> None:
    """A line that overwrites itself until all is done; on a terminal alone."""
    if sys.stderr.isatty():
        print(f"\r{what} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
