"""Triton's dynamic batcher in front of its instances, simulated request by request.

A free instance takes what waits, the oldest first, up to the largest batch. Less than that waits for company until the
oldest of it has waited for the delay; with a delay of 0 nothing waits while an instance is free. A request that finds
the queue full is refused, and one that waited longer than the timeout too (``REJECT``).

Instances share a machine: while n of them are busy, each runs at ``1 / (1 + slowdown * (n - 1))`` of its speed. With a
slowdown of 1 two instances do together what one does alone; with 0 they do twice that. Since all that run share one
speed, an execution ends when the work done by each since it began, V, has grown by its own: the executions' ends are
ordered by V, whatever starts and ends beside them.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Service = Callable[[int], float]
"""Seconds that an execution of a batch takes alone; asked when it begins: it may draw them at random."""


class Answers(enum.Enum):
    """When the requests of an execution are answered."""

    TOGETHER = "together"
    """When it ends, as of a GPU."""
    EACH = "each"
    """The i-th of them after the service time of i, as a backend does that computes image after image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batcher:
    """A configuration."""

    max_batch: int
    delay_s: float = 0.0
    instances: int = 1
    queue_limit: int = 0
    """Requests that may wait; 0 is no bound."""
    timeout_s: float = 0.0
    """How long one may wait; 0 is for ever."""
    slowdown: float = 0.0
    """How much longer an execution takes for each further busy instance: 0 not at all, 1 as long again."""
    answers: Answers = Answers.TOGETHER

    def __post_init__(self) -> None:
        """Raises ValueError where a number is out of bounds."""
        if self.max_batch < 1 or self.instances < 1:
            raise ValueError(f"expected a largest batch and instances from 1, got {self}")
        if min(self.delay_s, self.queue_limit, self.timeout_s, self.slowdown) < 0:
            raise ValueError(f"expected no negative number, got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What became of the requests, in the order in which they came."""

    arrivals_s: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    """From a request's arrival to its answer; NaN where it was refused or timed out."""
    executions: NDArray[np.int64]
    """The batch of each, in the order in which they began."""
    busy_s: float
    """Of all instances together."""

    @property
    def lost(self) -> int:
        """Requests that were refused or timed out."""
        return int(np.isnan(self.latency_s).sum())

    @property
    def mean_batch(self) -> float:
        """Requests per execution; NaN where none ran."""
        return float(self.executions.mean()) if self.executions.size else math.nan

    def percentile_s(self, percent: float) -> float:
        """The latency that ``percent`` of the answered requests do not exceed; NaN where none was answered."""
        answered = self.latency_s[~np.isnan(self.latency_s)]
        return float(np.percentile(answered, percent)) if answered.size else math.nan


def simulate(batcher: Batcher, service: Service, arrivals_s: NDArray[np.float64]) -> Served:
    """Requests that come at these times, FLOAT64 [N], sorted, whatever becomes of those before them."""
    if arrivals_s.size and (np.diff(arrivals_s) < 0).any():
        raise ValueError("expected sorted arrivals")
    run = _Run(batcher, service, arrivals_s.tolist())
    run.until_all_are_answered()
    return run.served()


def simulate_closed(
    batcher: Batcher, service: Service, concurrency: int, requests: int, client_s: float = 0.0
) -> Served:
    """``concurrency`` clients, which send their next request ``client_s`` after an answer, until so many are sent."""
    if concurrency < 1 or requests < concurrency or client_s < 0:
        raise ValueError(f"expected requests >= concurrency >= 1 and client_s >= 0, got {requests}, {concurrency}")
    run = _Run(batcher, service, [0.0] * concurrency, sent_by_clients=requests, client_s=client_s)
    run.until_all_are_answered()
    return run.served()


class _Run:
    """One simulation."""

    def __init__(
        self,
        batcher: Batcher,
        service: Service,
        arrivals_s: list[float],
        *,
        sent_by_clients: int = 0,
        client_s: float = 0.0,
    ) -> None:
        self._batcher, self._service, self._arrivals_s = batcher, service, arrivals_s
        self._sent_by_clients, self._client_s = sent_by_clients, client_s
        self._latency_s = [math.nan] * max(len(arrivals_s), sent_by_clients)
        self._executions: list[int] = []
        self._busy_s = 0.0
        self._waiting: deque[int] = deque()
        self._stretches = [1.0, *(1 + batcher.slowdown * others for others in range(batcher.instances))]

    def served(self) -> Served:
        return Served(
            arrivals_s=np.array(self._arrivals_s),
            latency_s=np.array(self._latency_s),
            executions=np.array(self._executions, np.int64),
            busy_s=self._busy_s,
        )

    def until_all_are_answered(self) -> None:
        """Go from event to event.

        At the same moment answers come first, then requests as far as they fill a batch, then an execution begins.
        """
        arrivals_s, waiting, batcher = self._arrivals_s, self._waiting, self._batcher
        max_batch, delay_s, instances = batcher.max_batch, batcher.delay_s, batcher.instances
        running: list[tuple[float, int, list[int], bool]] = []  # V at the end, a tie's order, requests, the last ones
        now, work, busy, came = 0.0, 0.0, 0, 0
        infinity = math.inf
        while True:
            stretch = self._stretches[busy]
            ends = now + (running[0][0] - work) * stretch if running else infinity
            comes = arrivals_s[came] if came < len(arrivals_s) else infinity
            begins = infinity
            if waiting and busy < instances:
                begins = now
                if len(waiting) < max_batch:
                    begins = max(now, arrivals_s[waiting[0]] + delay_s)
            event = min(ends, comes, begins)
            if event == infinity:
                return
            self._busy_s += busy * (event - now)
            work += (event - now) / stretch
            now = event
            if ends <= event:
                work, _, requests, last = heapq.heappop(running)
                busy -= last
                self._answer(requests, now)
            elif comes <= event and not (begins <= event and len(waiting) >= max_batch):
                self._admit(came, now)
                came += 1
            elif requests := self._taken(now):
                busy += 1
                self._executions.append(len(requests))
                self._run(running, requests, work)

    def _run(self, running: list[tuple[float, int, list[int], bool]], requests: list[int], work: float) -> None:
        if self._batcher.answers is Answers.TOGETHER:
            heapq.heappush(running, (work + self._service(len(requests)), requests[0], requests, True))
            return
        for done, request in enumerate(requests, start=1):
            heapq.heappush(running, (work + self._service(done), request, [request], done == len(requests)))

    def _answer(self, requests: list[int], now: float) -> None:
        for request in requests:
            self._latency_s[request] = now - self._arrivals_s[request]
        self._send_again(len(requests), now)

    def _send_again(self, clients: int, now: float) -> None:
        clients = min(clients, self._sent_by_clients - len(self._arrivals_s))
        if clients > 0:
            self._arrivals_s.extend([now + self._client_s] * clients)

    def _admit(self, request: int, now: float) -> None:
        limit = self._batcher.queue_limit
        if limit and len(self._waiting) >= limit:
            self._expire(now)
            if len(self._waiting) >= limit:
                self._send_again(1, now)
                return
        self._waiting.append(request)

    def _taken(self, now: float) -> list[int]:
        """What an execution that begins now takes; nothing where what has not expired may wait for company."""
        waiting, batcher = self._waiting, self._batcher
        if batcher.timeout_s and self._expire(now) and not self._may_begin(now):
            return []
        take = waiting.popleft
        return [take() for _ in range(min(len(waiting), batcher.max_batch))]

    def _may_begin(self, now: float) -> bool:
        waiting, batcher = self._waiting, self._batcher
        if not waiting or len(waiting) >= batcher.max_batch:
            return bool(waiting)
        return self._arrivals_s[waiting[0]] + batcher.delay_s <= now

    def _expire(self, now: float) -> int:
        """Refuse those that waited too long; their number."""
        timeout_s, expired = self._batcher.timeout_s, 0
        while timeout_s and self._waiting and self._arrivals_s[self._waiting[0]] + timeout_s < now:
            self._waiting.popleft()
            expired += 1
        self._send_again(expired, now)
        return expired
