"""Which frames to take and when to try again: decisions on times that others measure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0

BEHIND_S = 1.0
"""A live source that is later than this is caught up with by decoding key frames alone."""
CAUGHT_UP_S = 0.25
CLOCK_JUMPED_S = 10.0
CLOCK_DRIFT = 200e-6
"""A camera's clock that runs slow by this looks like growing lag, and is none."""

# Timestamps are multiples of a container's clock: 0.3 s may be 0.29999.
_TOLERANCE = 1e-3


@dataclass(slots=True)
class Sampler:
    """Takes frames at a rate, by their timestamps: at most one in each period of 1/fps seconds."""

    fps: float | None
    """None takes every frame."""
    _period: int | None = None

    def takes(self, time_s: float) -> bool:
        """Whether a frame of this time is taken; a clock that jumps back (a camera restarts) begins a new count."""
        if self.fps is None:
            return True
        period = math.floor(time_s * self.fps + _TOLERANCE)
        if self._period is not None and self._period - self.fps < period <= self._period:
            return False
        self._period = period
        return True


@dataclass(slots=True)
class Lag:
    """How much later frames of a live source come now than they did at best, and whether to catch up."""

    is_catching_up: bool = False
    _best_s: float = math.inf
    _last_s: float | None = None
    _behind_since_s: float = 0.0

    def arrived(self, time_s: float, now_s: float) -> None:
        """A frame of the source's time ``time_s`` was decoded at ``now_s``."""
        offset_s = now_s - time_s
        drift_s = CLOCK_DRIFT * (now_s - (now_s if self._last_s is None else self._last_s))
        self._last_s = now_s
        self._best_s = min(self._best_s + drift_s, offset_s)
        behind_s = offset_s - self._best_s
        if not self.is_catching_up:
            self._behind_since_s = now_s
        elif now_s - self._behind_since_s > CLOCK_JUMPED_S:
            # Key frames alone are decoded at once: whoever is still late has had its clock set back.
            self._best_s, behind_s = offset_s, 0.0
        self.is_catching_up = behind_s > (CAUGHT_UP_S if self.is_catching_up else BEHIND_S)


@dataclass(slots=True)
class Backoff:
    """Growing waits with jitter, so that many cameras do not come back at once."""

    _attempts: int = 0

    def next_delay_s(self) -> float:
        """How long to wait before the next attempt, from a tenth of to the whole limit, which doubles each time."""
        limit_s = min(LONGEST_DELAY_S, math.ldexp(FIRST_DELAY_S, self._attempts))
        self._attempts = min(self._attempts + 1, 16)
        return limit_s * random.uniform(0.1, 1.0)  # noqa: S311 -- spreads attempts, guards nothing

    def reset(self) -> None:
        """An attempt succeeded."""
        self._attempts = 0
