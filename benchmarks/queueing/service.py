"""How long an instance is held by a batch, by the batch's size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

LARGEST_TABLED = 1024


@dataclass(frozen=True, slots=True)
class ServiceTimes:
    """Seconds by batch size: straight lines between what was measured, and the last one's slope beyond it.

    Below the smallest measured batch the time is that batch's: a smaller one is no slower, and nothing says how much
    faster. One measured batch alone gives times in proportion to it, and never less than its own.
    """

    batches: tuple[int, ...]
    """Ascending."""
    seconds: tuple[float, ...]
    _table: tuple[float, ...] = field(repr=False, compare=False)
    """Of the batches from 1 on."""

    @classmethod
    def from_measured(cls, seconds: Mapping[int, float]) -> ServiceTimes:
        """Times of one batch size or more; raises ValueError for none, for sizes below 1 and times that are none."""
        if not seconds:
            raise ValueError("expected the service time of one batch size or more, got none")
        batches = tuple(sorted(seconds))
        times = tuple(float(seconds[batch]) for batch in batches)
        if batches[0] < 1 or not all(0 < each < math.inf for each in times):
            raise ValueError(f"expected batches from 1 and times above 0, got {dict(sorted(seconds.items()))}")
        table = tuple(_interpolated(batches, times))
        return cls(batches, times, table)

    def __call__(self, batch: int) -> float:
        """Seconds that a batch of that size takes; raises ValueError below 1."""
        if 0 < batch <= LARGEST_TABLED:
            return self._table[batch - 1]
        if batch < 1:
            raise ValueError(f"expected a batch from 1, got {batch}")
        last = self._table[-1]
        return last + (batch - LARGEST_TABLED) * (last - self._table[-2])

    def scaled(self, factor: float) -> ServiceTimes:
        """The same curve on a machine that takes ``factor`` times as long."""
        return ServiceTimes.from_measured(
            {batch: each * factor for batch, each in zip(self.batches, self.seconds, strict=True)}
        )


def _interpolated(batches: tuple[int, ...], times: tuple[float, ...]) -> Iterator[float]:
    """The time of every batch from 1 to LARGEST_TABLED."""
    points = list(zip(batches, times, strict=True))
    if len(points) == 1:
        batch, time = points[0]
        points.append((2 * batch, 2 * time))
    right = 1
    for batch in range(1, LARGEST_TABLED + 1):
        while right < len(points) - 1 and batch > points[right][0]:
            right += 1
        (left_batch, left), (right_batch, above) = points[right - 1], points[right]
        # Noise may make a larger batch look faster; beyond the last one that would end below zero.
        slope = (above - left) / (right_batch - left_batch)
        if batch > right_batch:
            slope = max(slope, 0.0)
            yield above + (batch - right_batch) * slope
        else:
            yield left + max(batch - left_batch, 0) * slope
