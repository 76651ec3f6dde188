"""Writes a run's checkpoints and removes those that need not be kept."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checkpoints.file import CheckpointMeta, sidecar, write_checkpoint
from trainer.errors import CheckpointError


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Which checkpoints stay."""

    last: int = 3
    """The newest."""
    every: int | None = None
    """And every checkpoint at the end of an epoch whose number is a multiple of it."""
    best: bool = True
    """And the one of the best validated epoch."""


class CheckpointWriter:
    """Takes copies of the training's state and has them on the disk."""

    def __init__(self, folder: Path, keep: Retention, stores: Sequence[object] = ()) -> None:
        """Write into ``folder``, which need not be there."""
        self._folder = folder
        self._keep = keep
        self._written: list[tuple[CheckpointMeta, Path]] = []
        self.failures: list[str] = []
        """Why checkpoints were not written, in order."""

    def submit(self, state: Mapping[str, Any], meta: CheckpointMeta) -> None:
        """Have a checkpoint written; ``state`` is a copy that nobody changes any more."""
        try:
            path = write_checkpoint(self._folder, state, meta)
        except CheckpointError as e:
            self.failures.append(str(e))
            return
        self._written.append((meta, path))
        self._remove_old()

    def close(self, timeout_s: float | None = None) -> None:
        """Wait until all that was submitted is written."""

    def _remove_old(self) -> None:
        best = max((meta.fitness for meta, _ in self._written if meta.fitness is not None), default=None)
        for meta, path in self._written[: -self._keep.last]:
            every = self._keep.every
            if meta.fitness is not None and ((every and meta.epoch % every == 0) or meta.fitness == best):
                continue
            with contextlib.suppress(OSError):
                sidecar(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            self._written = [each for each in self._written if each[1] != path]
