"""The model of a deployment: service times, contention and overhead, fitted to measurements.

- ``c(b)``, how long an execution of b images holds its instance: from closed loops on one instance in which a full
  batch always waits, so that executions follow one another without a gap. c(b) = images per execution / throughput,
  with the images per execution that Triton counted. Triton's own compute times are not used: of a model that answers
  through response senders, as this project's on the CPU, they are the time until a call returns, not until its images
  are done.
- ``overhead``: what a request needs beside that, on its way and in the server. It keeps no instance: with one client
  the latency is c(1) + overhead.
- ``slowdown``: how much longer an execution takes for each further busy instance, from the throughput of several, by
  batch: small ones leave room beside them.
- ``jitter``: the standard deviation of the logarithm of execution times, from the spread of one client's latencies.
- whether the requests of an execution are answered together or one by one: whichever explains the latencies better.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.load.points import LoadPoint
from benchmarks.queueing.batcher import Answers, Batcher, simulate_closed
from benchmarks.queueing.service import ServiceTimes
from benchmarks.tune.space import Trial

Measurements = Mapping[Trial, LoadPoint]

EXECUTIONS = 16
"""Of each instance that a prediction simulates at least."""
REQUESTS = 300
"""That a prediction simulates at least."""
THOROUGH = 3
WARM_UP = 0.25
P99_OF_NORMAL = 2.326
MOST_JITTER = 0.3
LEAST_SHARE = 0.2
"""Of one client's latency that its execution takes at least."""
LEAST_OVERHEAD_S = 1e-4
"""No answer brings the next request at the same moment: what waits then begins without it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a trial is expected to measure."""

    throughput_images_per_s: float
    latency_ms: float
    """The percentile that the goal is about."""
    mean_batch: float


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Measured slowdowns by batch; straight lines over its logarithm between them, the nearest beyond."""

    measured: tuple[tuple[int, float], ...] = ()
    """Ascending."""

    def __call__(self, batch: float) -> float:
        """1 while nothing is measured: instances then promise nothing."""
        if not self.measured:
            return 1.0
        batches, slowdowns = zip(*self.measured, strict=True)
        return float(np.interp(math.log2(batch), np.log2(batches), slowdowns))


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueModel:
    """A deployment's parameters."""

    service: ServiceTimes
    overhead_s: float
    slowdown: Slowdown
    jitter: float
    answers: Answers = Answers.TOGETHER

    def predict(self, trial: Trial, percentile: int, *, thorough: bool = False) -> Prediction:
        """Simulate the closed loop; thoroughly where a percentile shall not hang on a few requests."""
        return _predicted(self, trial, percentile, thorough)

    def execution_ms(self, trial: Trial) -> float:
        """A full batch beside other busy instances."""
        settings = trial.settings
        stretch = 1 + self.slowdown(settings.max_batch) * (settings.instances - 1)
        return self.service(settings.max_batch) * stretch * 1e3


@functools.lru_cache(maxsize=4096)
def _predicted(model: QueueModel, trial: Trial, percentile: int, thorough: bool) -> Prediction:
    settings = trial.settings
    batcher = Batcher(
        max_batch=settings.max_batch,
        delay_s=settings.max_queue_delay_us / 1e6,
        instances=settings.instances,
        slowdown=model.slowdown(_usual_batch(trial)),
        answers=model.answers,
    )
    requests = max(REQUESTS, EXECUTIONS * trial.places, 10 * trial.clients) * (THOROUGH if thorough else 1)
    service = _Jittered(model.service, model.jitter, requests)
    served = simulate_closed(batcher, service, trial.clients, requests, model.overhead_s)
    # At the end there are fewer clients left.
    latency_s = served.latency_s[int(requests * WARM_UP) : -trial.clients] + model.overhead_s
    return Prediction(
        # The law of Little.
        throughput_images_per_s=float(trial.clients / latency_s.mean()),
        latency_ms=float(np.percentile(latency_s, percentile) * 1e3),
        mean_batch=served.mean_batch,
    )


def _usual_batch(trial: Trial) -> float:
    """Clients wait for one another where there is a delay; without one they spread over the instances."""
    settings = trial.settings
    instances = 1 if settings.max_queue_delay_us else settings.instances
    return min(settings.max_batch, max(1.0, trial.clients / instances))


class _Jittered:
    """Service times, each longer or shorter by a random factor of mean 1, which are the same in every simulation."""

    def __init__(self, service: ServiceTimes, jitter: float, draws: int) -> None:
        self._service = service
        factors = np.exp(np.random.default_rng(0).normal(-(jitter**2) / 2, jitter, draws)) if jitter else np.ones(1)
        self._factors: list[float] = factors.tolist()
        self._next = 0

    def __call__(self, batch: int) -> float:
        self._next = (self._next + 1) % len(self._factors)
        return self._service(batch) * self._factors[self._next]


def fit(measurements: Measurements, percentile: int) -> QueueModel:
    """The parameters that explain what was measured; one saturated trial on one instance must be among it.

    Raises:
        ValueError: there is none.
    """
    service = ServiceTimes.from_measured(_held_s(measurements))
    overhead_s, jitter = _of_one_client(measurements, service)
    model = QueueModel(service=service, overhead_s=overhead_s, slowdown=_slowdown(measurements, service), jitter=jitter)
    each = replace(model, answers=Answers.EACH)
    return min((model, each), key=lambda one: _misfit(one, measurements, percentile))


def _held_s(measurements: Measurements) -> dict[int, float]:
    """c(b) by b, never falling with b."""
    seen: dict[int, list[float]] = {}
    for trial, point in measurements.items():
        if trial.settings.instances == 1 and trial.saturates:
            per_image_s = 1 / point.throughput_images_per_s
            seen.setdefault(max(1, round(point.mean_batch)), []).append(per_image_s)
    held_s: dict[int, float] = {}
    longest = 0.0
    for batch in sorted(seen):
        longest = max(longest, batch * statistics.geometric_mean(seen[batch]))
        held_s[batch] = longest
    return held_s


def _of_one_client(measurements: Measurements, service: ServiceTimes) -> tuple[float, float]:
    """Overhead and jitter."""
    alone = [
        point.latency_ms for trial, point in measurements.items() if trial.clients == trial.settings.instances == 1
    ]
    if not alone:
        return LEAST_OVERHEAD_S, 0.0
    mean_s = statistics.mean(each.mean for each in alone) / 1e3
    spread = statistics.mean(math.log(each.p99 / each.p50) for each in alone) / P99_OF_NORMAL
    overhead_s = max(LEAST_OVERHEAD_S, mean_s - max(service(1), LEAST_SHARE * mean_s))
    return overhead_s, min(max(spread, 0.0), MOST_JITTER)


def _slowdown(measurements: Measurements, service: ServiceTimes) -> Slowdown:
    seen: dict[int, list[float]] = {}
    for trial, point in measurements.items():
        instances = trial.settings.instances
        if instances > 1 and trial.saturates:
            batch = max(1, round(point.mean_batch))
            stretch = instances * batch / (service(batch) * point.throughput_images_per_s)
            seen.setdefault(batch, []).append(max(0.0, (stretch - 1) / (instances - 1)))
    return Slowdown(tuple((batch, statistics.median(seen[batch])) for batch in sorted(seen)))


def _misfit(model: QueueModel, measurements: Measurements, percentile: int) -> float:
    """Squared errors of the logarithms."""
    total = 0.0
    for trial, point in measurements.items():
        prediction = model.predict(trial, percentile)
        total += math.log(point.latency_ms.percentile(percentile) / prediction.latency_ms) ** 2
        total += math.log(point.throughput_images_per_s / prediction.throughput_images_per_s) ** 2
    return total
