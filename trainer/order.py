"""Which sample comes when: counted from the seed and the epoch, so that nothing has to be carried.

An epoch is a permutation of the data set, filled up from its beginning to whole global batches, so that every step has
the same weight. Global batch ``b`` is a slice of it, and each of W processes takes its contiguous share of the slice:
the data of a step is the same for any number of processes and data loading workers, and whatever was interrupted.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ORDER_STREAM = 0
"""Tells the stream of the order from those of the samples and the steps (``seeded_dataset``)."""


class SampleKey(NamedTuple):
    """One sample of a training."""

    epoch: int
    position: int
    """Its place in the epoch, from which its augmentation is drawn."""
    image: int
    """Its place in the data set."""


class Position(NamedTuple):
    """The next step of a training."""

    epoch: int
    step: int
    """Within the epoch; the number of steps where all are done and the epoch has yet to be closed."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of the samples of a run."""

    seed: int
    samples: int
    batch: int
    """Global: of all processes together."""

    def __post_init__(self) -> None:
        """Refuse what has no order."""
        assert self.samples > 0, "a data set has images"
        assert self.batch > 0, "a batch has images"

    @property
    def steps_per_epoch(self) -> int:
        """Global batches of an epoch."""
        return -(-self.samples // self.batch)

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        """The data set's indexes in the order of an epoch, [samples]."""
        return _permutation(self.seed, epoch, self.samples)

    def share(self, epoch: int, step: int, rank: int = 0, world: int = 1) -> list[SampleKey]:
        """The samples of a step that one of ``world`` processes takes."""
        assert 0 <= step < self.steps_per_epoch, "the step is within the epoch"
        permutation = self.permutation(epoch)
        start = step * self.batch
        places = range(start + rank * self.batch // world, start + (rank + 1) * self.batch // world)
        return [SampleKey(epoch, place, int(permutation[place % self.samples])) for place in places]


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    # numpy keeps a bit generator's raw stream from release to release, its permutation() it does not (NEP 19).
    raw = np.random.PCG64(np.random.SeedSequence([_ORDER_STREAM, seed, epoch])).random_raw(samples)
    order = np.argsort(raw, kind="stable").astype(np.int64)
    order.setflags(write=False)
    return order


@dataclass(frozen=True, kw_only=True)
class RemainingBatches:
    """A batch sampler: the shares of one process from a position to the end of the training."""

    order: Order
    start: Position
    epochs: int
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield a list of keys for each step."""
        for epoch in range(self.start.epoch, self.epochs):
            first = self.start.step if epoch == self.start.epoch else 0
            for step in range(first, self.order.steps_per_epoch):
                yield self.order.share(epoch, step, self.rank, self.world)

    def __len__(self) -> int:
        """Count the steps that remain."""
        return (self.epochs - self.start.epoch) * self.order.steps_per_epoch - self.start.step
