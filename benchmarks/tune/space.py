"""What is searched: configurations of Triton's batcher and instances, each under a number of clients.

The throughput of a configuration is the highest that it sustains within the limit: images answered per second in a
closed loop of C clients, each of which sends its next image when the last one is answered, where the percentile of the
latency is within the limit and no request fails; the highest over C.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from builder.serving import ServingSettings

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Numbers of clients: each about 1.4 times the one before."""
DELAYS_US = (0, 500, 1000, 2000, 5000, 10000)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A configuration under a load: one measurement, once it is measured."""

    settings: ServingSettings
    clients: int

    @property
    def places(self) -> int:
        """Images that can be in execution at a time."""
        return self.settings.max_batch * self.settings.instances

    @property
    def saturates(self) -> bool:
        """Whether a full batch waits whenever an instance gets free."""
        return self.clients >= self.places + self.settings.max_batch

    def __str__(self) -> str:
        settings = self.settings
        return (
            f"batch {settings.max_batch}, {settings.instances} instance{'s' * (settings.instances > 1)}, "
            f"delay {settings.max_queue_delay_us / 1000:g} ms, {self.clients} client{'s' * (self.clients > 1)}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """The limit that requests shall meet; without one, the most throughput is wanted."""

    sla_ms: float | None = None
    percentile: int = 99


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """Every value of each setting that may be chosen; the others stay as they are in ``base``.

    While it is measured, a queue that has a bound has room for every load: its bound follows from what was measured.
    """

    base: ServingSettings
    batches: tuple[int, ...]
    instances: tuple[int, ...]
    delays_us: tuple[int, ...] = DELAYS_US

    @property
    def size(self) -> int:
        """Configurations, their clients aside."""
        return len(self.batches) * len(self.instances) * len(self.delays_us)

    def configurations(self) -> Iterator[ServingSettings]:
        """All of them."""
        for batch in self.batches:
            for instances in self.instances:
                for delay_us in self.delays_us:
                    yield self.settings(batch, instances, delay_us)

    def settings(self, batch: int, instances: int, delay_us: int) -> ServingSettings:
        """One of them."""
        return dataclasses.replace(
            self.base,
            max_batch=batch,
            instances=instances,
            max_queue_delay_us=delay_us,
            max_queue_size=max(self.base.max_queue_size, LADDER[-1], batch) if self.base.max_queue_size else 0,
        )

    def without_policy(self, settings: ServingSettings) -> ServingSettings:
        """The same, where requests wait as many and as long as may be.

        With a queue policy and one instance, Triton may let a request lie for up to 500 ms (core's
        dynamic_batch_scheduler.cc), which says nothing of how long an execution takes.
        """
        return dataclasses.replace(settings, max_queue_size=0, queue_timeout_ms=0)

    def is_served(self, settings: ServingSettings) -> bool:
        """Whether requests wait in these settings by the policy that ``base`` has."""
        return has_policy(settings) == has_policy(self.base)

    def trials(self) -> Iterator[Trial]:
        """Each configuration under every number of clients that can tell it from others.

        Left out are delays that never pass, since a full batch always waits; batches that so few clients never fill
        and instances beyond the clients, which are no better than smaller numbers; and all but the first two numbers of
        clients that keep a full batch waiting, since with more of them only the queue grows.
        """
        for settings in self.configurations():
            smaller = max((each for each in self.batches if each < settings.max_batch), default=0)
            fewer = max((each for each in self.instances if each < settings.instances), default=0)
            saturating = 0
            for clients in LADDER:
                trial = Trial(settings=settings, clients=clients)
                saturating += trial.saturates
                passes = settings.max_batch > 1 and not trial.saturates
                if settings.max_queue_delay_us > min(self.delays_us) and not passes:
                    continue
                if clients > max(smaller, fewer) and saturating <= 2:
                    yield trial


def has_policy(settings: ServingSettings) -> bool:
    """Whether the queue has a bound or a timeout."""
    return bool(settings.max_queue_size or settings.queue_timeout_ms)


def powers_of_two(most: int) -> tuple[int, ...]:
    """1, 2, 4 ... and ``most`` itself."""
    powers = {1 << power for power in range(most.bit_length()) if 1 << power <= most}
    return tuple(sorted({*powers, most}))


def queue_bound(throughput_per_s: float, execution_ms: float, goal: Goal, trial: Trial, base: ServingSettings) -> int:
    """How many requests may wait: those that can be served in time, ``throughput x (limit - execution)``.

    Whoever finds more before it would be answered too late, and is refused at once. Never less than a batch, nor than
    the clients that were measured with; without a limit it is what the configuration had, and room for all clients.
    """
    least = max(trial.settings.max_batch, trial.clients)
    if goal.sla_ms is None:
        return max(base.max_queue_size, least) if base.max_queue_size else 0
    return max(least, math.ceil(throughput_per_s * max(0.0, goal.sla_ms - execution_ms) / 1000))
