"""What became of the frames of a stream: counts, latencies and rates, of constant size however long it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

LOWEST_S = 1e-3
GROWTH = 1.05
"""Each latency bucket is this much wider than the one before, so a percentile is at most 5 % too high."""
BUCKETS = 240
"""Up to 1 ms x 1.05^239 = 116 s; the last takes whatever is longer."""
RATE_WINDOW_S = 10


@dataclass(slots=True)
class Latencies:
    """A histogram of seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    sum_s: float = 0.0
    longest_s: float = 0.0

    def add(self, latency_s: float) -> None:
        """Count one."""
        index = 0 if latency_s <= LOWEST_S else math.ceil(math.log(latency_s / LOWEST_S, GROWTH))
        self.counts[min(index, BUCKETS - 1)] += 1
        self.sum_s += latency_s
        self.longest_s = max(self.longest_s, latency_s)

    def percentile_s(self, percent: float) -> float | None:
        """The upper edge of the bucket that holds this percentile; None where nothing was counted."""
        total = sum(self.counts)
        if not total:
            return None
        wanted, seen = total * percent / 100, 0
        for index, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return min(LOWEST_S * GROWTH**index, self.longest_s)
        return self.longest_s

    def merge(self, other: Latencies) -> None:
        """Count what another has counted."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum_s += other.sum_s
        self.longest_s = max(self.longest_s, other.longest_s)

    def copy(self) -> Latencies:
        """The same, which does not change any more."""
        return Latencies(self.counts.copy(), self.sum_s, self.longest_s)


@dataclass(slots=True)
class Rate:
    """Events per second over the last RATE_WINDOW_S whole seconds."""

    _by_second: dict[int, int] = field(default_factory=dict)
    _first_s: float | None = None

    def add(self, now_s: float) -> None:
        """Count one."""
        if self._first_s is None:
            self._first_s = now_s
        second = math.floor(now_s)
        if second not in self._by_second:
            self._by_second = {each: n for each, n in self._by_second.items() if each >= second - RATE_WINDOW_S}
        self._by_second[second] = self._by_second.get(second, 0) + 1

    def per_second(self, now_s: float) -> float:
        """The rate before ``now_s``; 0 until a whole second is over."""
        second = math.floor(now_s)
        if self._first_s is None or (seconds := min(RATE_WINDOW_S, second - math.floor(self._first_s))) < 1:
            return 0.0
        return sum(self._by_second.get(each, 0) for each in range(second - seconds, second)) / seconds


@dataclass(slots=True)
class Account:
    """One stream's frames: captured = answered + dropped + failed + those that wait or are in flight."""

    captured: int = 0
    answered: int = 0
    dropped: int = 0
    """Replaced by a newer frame before a request was free, or left when the run ended."""
    failed: int = 0
    """The request, or reading the frame, ended in an error."""
    latencies: Latencies = field(default_factory=Latencies)
    """From the capture of a frame to its answer."""
    rate: Rate = field(default_factory=Rate)
    """Of answers."""

    @property
    def pending(self) -> int:
        """Frames of which nothing has become yet."""
        return self.captured - self.answered - self.dropped - self.failed


@dataclass(frozen=True, kw_only=True, slots=True)
class AccountView:
    """An account at one moment."""

    captured: int
    answered: int
    dropped: int
    failed: int
    fps: float
    """Answers per second lately."""
    latencies: Latencies

    @property
    def pending(self) -> int:
        """Frames of which nothing has become yet: they wait or are in flight."""
        return self.captured - self.answered - self.dropped - self.failed

    @classmethod
    def of(cls, account: Account, now_s: float) -> AccountView:
        """A copy."""
        return cls(
            captured=account.captured,
            answered=account.answered,
            dropped=account.dropped,
            failed=account.failed,
            fps=account.rate.per_second(now_s),
            latencies=account.latencies.copy(),
        )

    @classmethod
    def total(cls, views: Iterable[AccountView]) -> AccountView:
        """All streams as one."""
        views = list(views)
        latencies = Latencies()
        for view in views:
            latencies.merge(view.latencies)
        return cls(
            captured=sum(view.captured for view in views),
            answered=sum(view.answered for view in views),
            dropped=sum(view.dropped for view in views),
            failed=sum(view.failed for view in views),
            fps=sum(view.fps for view in views),
            latencies=latencies,
        )
