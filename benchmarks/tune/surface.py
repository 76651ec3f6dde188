"""What can be measured: a server, or in tests a simulation of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.load.points import LoadPoint
from benchmarks.tune.space import Trial
from builder.errors import ServerError


class TrialFailedError(ServerError):
    """A configuration cannot be loaded, or fails requests under this load: no choice, and no reason to stop."""


class Surface(Protocol):
    """Measures one load level on one configuration."""

    def measure(self, trial: Trial) -> LoadPoint:
        """Throughput, latencies and batches of a closed loop of ``trial.clients``, one image in each request.

        Raises:
            TrialFailedError: the configuration does not load, or a request fails.
        """


@dataclass(kw_only=True)
class Budget:
    """Counts measurements, and lets no more through than were allowed.

    A measurement is one load level on one configuration: every call of ``Surface.measure``, whatever it is for.
    """

    surface: Surface
    allowed: int
    used: int = field(default=0, init=False)

    @property
    def left(self) -> int:
        """Measurements that may still be made."""
        return self.allowed - self.used

    def measure(self, trial: Trial) -> LoadPoint:
        """Spend one; calling it with none left is a mistake of the search."""
        assert self.left > 0, "no measurement is left"
        self.used += 1
        return self.surface.measure(trial)
