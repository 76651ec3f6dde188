"""Where values lie on an axis, and which of them are written beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """From ``low`` to ``high``, with ``ticks`` between; ``log`` by powers of ten."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def part(self, value: float) -> float:
        """Where a value lies, 0 at ``low`` and 1 at ``high``; beyond either it stays at the end."""
        if self.log:
            value = max(value, self.low)
            place = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            place = (value - self.low) / (self.high - self.low)
        return min(max(place, 0.0), 1.0)

    def labels(self) -> tuple[str, ...]:
        """The ticks as text, with as many decimals as tell them apart."""
        if self.log:
            return tuple(f"{tick:,.10f}".rstrip("0").rstrip(".") for tick in self.ticks)
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        digits = next((d for d in range(10) if abs(step * 10**d - round(step * 10**d)) < 1e-6 * step * 10**d), 10)
        # Adding 0 turns -0.0 into 0.0.
        return tuple(f"{round(tick, digits) + 0.0:,.{digits}f}".replace("-", "−") for tick in self.ticks)


def linear_axis(values: Iterable[float], *, from_zero: bool = True, most: int = 6) -> Axis:
    """Round ticks around finite values, at most ``most`` + 1 of them; 0 is on the axis where asked for."""
    known = list(values)
    if not known:
        raise ValueError("expected one finite value or more, got none")
    low, high = min(known), max(known)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        low, high = (low, low + 1.0) if low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    # Between counts there is nothing to name.
    is_counted = all(value == int(value) for value in known)
    rough = max((high - low) / most, 1.0 if is_counted else 0.0)
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in _STEPS:
        step = factor * power
        if is_counted and step != int(step):
            continue
        # The share of a step forgives what dividing rounded.
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= most:
            break
    ticks = tuple(number * step for number in range(first, last + 1))
    return Axis(low=ticks[0], high=ticks[-1], ticks=ticks)


def log_axis(values: Iterable[float]) -> Axis:
    """1, 2 and 5 of each power of ten where there are few powers, around values above 0."""
    known = [value for value in values if value > 0]
    if not known:
        raise ValueError("expected one value above 0 or more, got none")
    low, high = min(known), max(known)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    factors: Sequence[int] = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    start = max(index for index, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
    end = min(index for index, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
    used = tuple(ticks[start : max(end, start + 1) + 1])
    return Axis(low=used[0], high=used[-1], ticks=used, log=True)
