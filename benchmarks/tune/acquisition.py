"""Which trial is worth measuring next: the one of the largest expected gain.

That is the expected improvement times the probability of being within the limit (J. R. Gardner et al., Bayesian
Optimization with Inequality Constraints, 2014), of what the queue model predicts, corrected by how far it has been off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.tune.model import Prediction, QueueModel
from benchmarks.tune.residuals import LATENCY, Residuals
from benchmarks.tune.space import Goal, Trial

LIKELY = 0.8
"""While nothing is known to be within the limit, trials that are so with this probability or more compare by gain."""
SLACK = 1.03
"""How far jitter may lift a simulated throughput above its bound."""

Score = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A trial, and what is expected of it."""

    trial: Trial
    model: Prediction
    """The queue model's."""
    expected: Prediction
    """The same, corrected."""
    gain: float
    """Images per second that are expected beyond the best, and 0 where the limit is missed."""
    feasible: float
    """The probability that it is within the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Acquisition:
    """What is believed, and the best that was measured."""

    goal: Goal
    model: QueueModel
    throughputs: Residuals
    latencies: Residuals
    best: float
    """Images per second; 0 while nothing is within the limit."""

    def choose(self, trials: Sequence[Trial]) -> Choice | None:
        """The trial of the highest score; None where none can score.

        A bound that needs no simulation orders the trials, and no more are simulated than can win.
        """
        if not trials:
            return None
        beliefs = [
            _Belief(*map(float, values))
            for values in zip(*self.throughputs.at(trials), *self.latencies.at(trials), strict=True)
        ]
        bounded = [(self._bound(trial, belief), trial, belief) for trial, belief in zip(trials, beliefs, strict=True)]
        chosen: Choice | None = None
        for bound, trial, belief in sorted(bounded, key=lambda each: each[0], reverse=True):
            if max(bound) <= 0 or (chosen and bound <= self._score(chosen.feasible, chosen.gain)):
                break
            choice = self._predicted(trial, belief)
            if chosen is None or self._score(choice.feasible, choice.gain) > self._score(chosen.feasible, chosen.gain):
                chosen = choice
        return chosen and self._predicted(chosen.trial, beliefs[trials.index(chosen.trial)], thorough=True)

    def _predicted(self, trial: Trial, belief: _Belief, *, thorough: bool = False) -> Choice:
        prediction = self.model.predict(trial, self.goal.percentile, thorough=thorough)
        throughput = prediction.throughput_images_per_s * math.exp(belief.throughput_log)
        latency_ms = prediction.latency_ms * math.exp(belief.latency_log)
        feasible, gain = self._worth(trial, belief, throughput, latency_ms)
        expected = Prediction(
            throughput_images_per_s=throughput, latency_ms=latency_ms, mean_batch=prediction.mean_batch
        )
        return Choice(trial=trial, model=prediction, expected=expected, gain=gain, feasible=feasible)

    def _bound(self, trial: Trial, belief: _Belief) -> Score:
        """No less than the score; by Little's law the mean latency is clients / throughput."""
        most = SLACK * most_throughput(self.model, trial)
        least_ms = 1e3 * trial.clients / most
        feasible, gain = self._worth(
            trial, belief, most * math.exp(belief.throughput_log), least_ms * math.exp(belief.latency_log)
        )
        return self._score(feasible, gain)

    def _worth(self, trial: Trial, belief: _Belief, throughput: float, latency_ms: float) -> tuple[float, float]:
        feasible = _probability_within(_limit_ms(self.goal, trial), latency_ms, belief.latency_deviation)
        return feasible, feasible * _expected_excess(throughput, throughput * belief.throughput_deviation, self.best)

    def _score(self, feasible: float, gain: float) -> Score:
        return (min(feasible, LIKELY), gain) if self.best == 0 else (gain, 0.0)


@dataclass(frozen=True, slots=True)
class _Belief:
    """The model's correction for one trial."""

    throughput_log: float
    throughput_deviation: float
    latency_log: float
    latency_deviation: float


def most_throughput(model: QueueModel, trial: Trial) -> float:
    """What no closed loop of so many clients exceeds: k busy instances hold no more than all clients' images."""
    by_instances = _busiest(model, trial)
    return min(by_instances, trial.clients / (model.service(1) + model.overhead_s))


def _busiest(model: QueueModel, trial: Trial) -> float:
    settings = trial.settings
    rates = []
    for busy in range(1, settings.instances + 1):
        images = min(settings.max_batch, math.ceil(trial.clients / busy))
        rates.append(busy * images / (model.service(images) * (1 + model.slowdown(images) * (busy - 1))))
    return max(rates)


def _limit_ms(goal: Goal, trial: Trial) -> float:
    """A request that waits for longer than the configuration lets it is refused, which no trial may do."""
    limits: Iterable[float | None] = (goal.sla_ms, trial.settings.queue_timeout_ms)
    return min((each for each in limits if each), default=math.inf)


def _probability_within(limit_ms: float, latency_ms: float, deviation: float) -> float:
    if limit_ms == math.inf:
        return 1.0
    return _normal_cdf(math.log(limit_ms / latency_ms) / math.hypot(deviation, LATENCY.noise))


def _expected_excess(mean: float, deviation: float, above: float) -> float:
    """E[max(0, x - above)] of a normal x."""
    z = (mean - above) / deviation
    return (mean - above) * _normal_cdf(z) + deviation * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _normal_cdf(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2
