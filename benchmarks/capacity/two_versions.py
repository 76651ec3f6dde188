"""Versions of a model beside each other on one GPU, as during a rollout: queues of their own, one GPU's speed.

The batcher is that of ``benchmarks.queueing``; no batch holds requests of two versions. Up to as many executions as one
version has instances run as fast as they would for it; beyond that they share what those get done together.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.queueing.batcher import Answers, Batcher, Service


def simulate_versions(
    batcher: Batcher, service: Service, arrivals_s: Sequence[NDArray[np.float64]]
) -> list[NDArray[np.float64]]:
    """The latency of each version's requests, FLOAT64 [N] each, NaN where refused or timed out.

    ``batcher`` is that of each version; ``arrivals_s`` are the sorted times of each version's requests.
    """
    if batcher.answers is not Answers.TOGETHER:
        raise ValueError(f"expected a batcher that answers a batch together, got {batcher}")
    versions = [_Version(batcher, each) for each in arrivals_s]
    # Since all that run share one speed, they end in the order of V, the work done by each at its end.
    running: list[tuple[float, int, _Version, list[int]]] = []
    now, work, order = 0.0, 0.0, 0
    while True:
        stretch = _stretch(batcher, len(running))
        ends = now + (running[0][0] - work) * stretch if running else math.inf
        coming = min(versions, key=_Version.comes)
        beginning = min(versions, key=lambda version: version.begins(now))
        event = min(ends, coming.comes(), beginning.begins(now))
        if event == math.inf:
            return [np.array(version.latency_s) for version in versions]
        work += (event - now) / stretch
        now = event
        if ends <= event:
            work, _, version, requests = heapq.heappop(running)
            version.answer(requests, now)
        elif coming.comes() <= event:
            coming.admit(now)
        elif requests := beginning.take(now):
            order += 1
            heapq.heappush(running, (work + service(len(requests)), order, beginning, requests))


def _stretch(batcher: Batcher, running: int) -> float:
    """How much longer an execution takes while so many run."""
    alone = max(1, min(running, batcher.instances))
    return (1 + batcher.slowdown * (alone - 1)) * max(1, running) / alone


class _Version:
    """The queue of one version and its instances."""

    def __init__(self, batcher: Batcher, arrivals_s: NDArray[np.float64]) -> None:
        self.latency_s = [math.nan] * arrivals_s.size
        self._batcher, self._arrivals_s = batcher, arrivals_s.tolist()
        self._waiting: deque[int] = deque()
        self._came = self._busy = 0

    def comes(self) -> float:
        """When the next request comes."""
        return self._arrivals_s[self._came] if self._came < len(self._arrivals_s) else math.inf

    def begins(self, now: float) -> float:
        """When the next execution begins, if no other request comes before."""
        if not self._waiting or self._busy == self._batcher.instances:
            return math.inf
        full = len(self._waiting) >= self._batcher.max_batch
        return now if full else max(now, self._arrivals_s[self._waiting[0]] + self._batcher.delay_s)

    def admit(self, now: float) -> None:
        """Take the request that comes now into the queue, or refuse it."""
        limit = self._batcher.queue_limit
        if limit and len(self._waiting) >= limit:
            self._expire(now)
        if not limit or len(self._waiting) < limit:
            self._waiting.append(self._came)
        self._came += 1

    def take(self, now: float) -> list[int]:
        """What an execution that begins now takes; nothing where what has not expired may wait for company."""
        self._expire(now)
        if self.begins(now) > now:
            return []
        self._busy += 1
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._batcher.max_batch))]

    def answer(self, requests: list[int], now: float) -> None:
        """An execution has ended."""
        self._busy -= 1
        for request in requests:
            self.latency_s[request] = now - self._arrivals_s[request]

    def _expire(self, now: float) -> None:
        timeout_s = self._batcher.timeout_s
        while timeout_s and self._waiting and self._arrivals_s[self._waiting[0]] + timeout_s < now:
            self._waiting.popleft()
