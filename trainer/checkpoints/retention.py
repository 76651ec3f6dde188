"""Which checkpoints of a run stay, on the disk and in a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.checkpoints.file import CheckpointMeta


@dataclass(frozen=True, kw_only=True, slots=True)
class Retention:
    """Which checkpoints stay."""

    last: int = 3
    """The newest."""
    every: int | None = None
    """And the one at the end of each epoch whose number is a multiple of it."""
    best: bool = True
    """And the one of the best validated epoch, the first of equals."""

    def kept(self, metas: Sequence[CheckpointMeta]) -> set[str]:
        """The names of those that stay, of ``metas`` in the order in which they were written."""
        names = {meta.name for meta in metas[-self.last :]}
        validated = [meta for meta in metas if meta.fitness is not None]
        if self.best and validated:
            # max takes the first of equals.
            names.add(max(validated, key=lambda meta: meta.fitness or 0.0).name)
        if self.every:
            # The first checkpoint that goes on with an epoch is the one at the end of the epoch before.
            first = {meta.epoch: meta.name for meta in reversed(metas)}
            names |= {name for epoch, name in first.items() if epoch and epoch % self.every == 0}
        return names
