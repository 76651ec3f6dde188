"""The search: a few probes to fit the model, then what promises most, until nothing does or the budget is spent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.load.points import LoadPoint
from benchmarks.tune.acquisition import Acquisition, Choice
from benchmarks.tune.model import Prediction, QueueModel, fit
from benchmarks.tune.residuals import LATENCY, THROUGHPUT, Residuals
from benchmarks.tune.space import LADDER, Goal, Space, Trial, has_policy, queue_bound
from benchmarks.tune.surface import Budget, TrialFailedError

LEAST_MEASUREMENTS = 4
"""Three probes, and a confirmation."""
LEAST_CONFIRMATIONS = 3
"""However little they promise: a prediction that nothing has confirmed is none."""
WORTH = 0.0002
"""The search ends where no trial is expected to bring so much more, as a part of what there is."""
HOPEFUL = 0.02
"""Nor where none is within the limit with this probability, while none was found that is."""
STALLED = 2.5
"""A percentile so many times what was expected, with a queue policy, is requests that lay while nothing ran."""
LOSS = 0.05
"""What a bound of the queue may cost, in parts of the throughput and of the limit: the noise between measurements."""
EQUAL = 0.005
"""Trials whose throughput differs by less are alike: the simpler configuration is then taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One measurement."""

    trial: Trial
    point: LoadPoint
    latency_ms: float
    """The percentile that the goal is about."""
    model: Prediction | None = None
    """What the queue model alone said before; None for a probe and for the winner with its queue bounded."""
    expected: Prediction | None = None
    """The same, corrected by how far the model had been off until then."""

    @property
    def is_confirmation(self) -> bool:
        """Whether it was predicted."""
        return self.expected is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a search found."""

    goal: Goal
    space: Space
    steps: tuple[Step, ...]
    allowed: int
    model: QueueModel
    """As fitted to all steps."""
    winner: Step | None
    """None where nothing that was measured is within the limit."""
    queue_bound: int
    """Requests that may wait for the winner; 0 is no bound."""
    reason: str
    """Why the search ended."""
    failed: tuple[tuple[Trial, str], ...] = ()
    """Trials that could not be measured, and why; they count as measurements."""


def search(space: Space, goal: Goal, budget: Budget, progress: Callable[[str], None]) -> Outcome:
    """Spend the budget where it tells most; it holds LEAST_MEASUREMENTS or more."""
    run = _Search(space, goal, budget, progress)
    run.probe()
    reason = run.confirm()
    winner = run.winner()
    return run.outcome(reason, winner, run.bounded(winner) if winner else 0)


class _Search:
    def __init__(self, space: Space, goal: Goal, budget: Budget, progress: Callable[[str], None]) -> None:
        self._space, self._goal, self._budget, self._progress = space, goal, budget, progress
        self._trials = list(space.trials())
        self._steps: dict[Trial, Step] = {}
        self._failed: dict[Trial, str] = {}
        self._stalled: set[Trial] = set()
        """Those in which requests lay waiting while nothing ran, which no model of executions explains."""
        self._reserve = int(goal.sla_ms is not None and not has_policy(space.base))
        """Measurements that are kept for a bound of the queue where there was none."""
        self._fitted: QueueModel | None = None
        """To all steps."""

    def probe(self) -> None:
        """One client alone; one instance without batches, and with some; all without, and two with large ones."""
        batches, most = self._space.batches, max(self._space.instances)
        self._measure(self._saturated(batches[0], 1, clients=1))
        self._measure(self._saturated(batches[0], 1))
        self._measure(self._saturated(batches[len(batches) // 2], 1))
        if most > 1 and self._budget.left > 2:
            self._measure(self._saturated(batches[0], most))
        if self._budget.left > 2:
            self._measure(self._saturated(batches[len(batches) // 3], most))

    def confirm(self) -> str:
        """Measure what promises most, again and again; why that ended."""
        while True:
            choice = self._best_choice()
            best = self._best_throughput()
            if best == 0 and (choice is None or choice.feasible < HOPEFUL):
                return "the model leaves no hope that any configuration meets the limit"
            if choice is None:
                return "every trial that promised anything was measured"
            confirmed = sum(step.is_confirmation for step in self._steps.values())
            if best > 0 and choice.gain < WORTH * best and confirmed >= LEAST_CONFIRMATIONS:
                return f"no other trial is expected to bring {WORTH:.2%} more"
            if self._budget.left <= self._reserve:
                return "all measurements were spent"
            self._measure(choice.trial, choice)

    def bounded(self, winner: Step) -> int:
        """The bound of the winner's queue; 0 where it has none, and with one that was tried would miss the limit."""
        trial, throughput = winner.trial, winner.point.throughput_images_per_s
        execution_ms = self._model().execution_ms(trial)
        bound = queue_bound(throughput, execution_ms, self._goal, trial, self._space.base)
        if not bound or not self._reserve:
            return bound
        checked = replace(trial, settings=replace(trial.settings, max_queue_size=bound))
        self._measure(checked)
        step = self._steps.get(checked)
        if step is None or step.point.failed or step.point.throughput_images_per_s < (1 - LOSS) * throughput:
            return 0
        return bound if step.latency_ms <= (1 + LOSS) * max(winner.latency_ms, self._goal.sla_ms or 0.0) else 0

    def outcome(self, reason: str, winner: Step | None, bound: int) -> Outcome:
        return Outcome(
            goal=self._goal,
            space=self._space,
            steps=tuple(self._steps.values()),
            allowed=self._budget.allowed,
            model=self._model(),
            winner=winner,
            queue_bound=bound,
            reason=reason,
            failed=tuple(self._failed.items()),
        )

    def _measure(self, trial: Trial, choice: Choice | None = None) -> None:
        if trial in self._steps:
            return
        try:
            point = self._budget.measure(trial)
        except TrialFailedError as error:
            # Without the first two there is no model.
            if len(self._steps) < 2:
                raise
            self._failed[trial] = str(error)
            self._progress(f"{self._budget.used}/{self._budget.allowed} {trial}: failed: {error}")
            return
        step = Step(
            trial=trial,
            point=point,
            latency_ms=point.latency_ms.percentile(self._goal.percentile),
            model=choice.model if choice else None,
            expected=choice.expected if choice else None,
        )
        self._steps[trial], self._fitted = step, None
        if has_policy(trial.settings) and choice and step.latency_ms > STALLED * choice.expected.latency_ms:
            self._stalled.add(trial)
        self._progress(f"{self._budget.used}/{self._budget.allowed} {told(step, self._goal)}")

    def _saturated(self, batch: int, instances: int, clients: int | None = None) -> Trial:
        settings = self._space.settings(batch, instances, min(self._space.delays_us))
        if instances == 1:
            settings = self._space.without_policy(settings)
        wanted = clients or batch * (instances + 1)
        return Trial(settings=settings, clients=next((each for each in LADDER if each >= wanted), wanted))

    def _model(self) -> QueueModel:
        if self._fitted is None:
            points = {trial: step.point for trial, step in self._steps.items() if trial not in self._stalled}
            self._fitted = fit(points, self._goal.percentile)
        return self._fitted

    def _is_within(self, step: Step) -> bool:
        return is_within(step, self._goal, self._space)

    def _best_throughput(self) -> float:
        within = (step.point for step in self._steps.values() if self._is_within(step))
        return max((point.throughput_images_per_s for point in within), default=0.0)

    def _best_choice(self) -> Choice | None:
        model = self._model()
        throughputs, latencies = self._residuals(model)
        acquisition = Acquisition(
            goal=self._goal,
            model=model,
            throughputs=throughputs,
            latencies=latencies,
            best=self._best_throughput(),
        )
        stalls = {trial.settings.instances for trial in self._stalled if trial.settings.instances == 1}
        tried = self._steps.keys() | self._failed
        return acquisition.choose(
            [each for each in self._trials if each not in tried and each.settings.instances not in stalls]
        )

    def _residuals(self, model: QueueModel) -> tuple[Residuals, Residuals]:
        trials, x_logs, l_logs = [each for each in self._steps if each not in self._stalled], [], []
        for trial in trials:
            step = self._steps[trial]
            prediction = model.predict(trial, self._goal.percentile, thorough=True)
            x_logs.append(math.log(step.point.throughput_images_per_s / prediction.throughput_images_per_s))
            l_logs.append(math.log(step.latency_ms / prediction.latency_ms))
        return Residuals(THROUGHPUT, trials, x_logs), Residuals(LATENCY, trials, l_logs)

    def winner(self) -> Step | None:
        """The most throughput within the limit, what was measured weighed against what the model says."""
        within = [each for each, step in self._steps.items() if self._is_within(step) and each not in self._stalled]
        if not within:
            return None
        model = self._model()
        logs, _ = self._residuals(model)[0].at(within)
        predictions = [
            model.predict(each, self._goal.percentile, thorough=True).throughput_images_per_s for each in within
        ]
        throughputs = dict(zip(within, np.array(predictions) * np.exp(logs), strict=True))
        enough = max(throughputs.values()) * (1 - EQUAL)
        return self._steps[min((each for each in within if throughputs[each] >= enough), key=_complexity)]


def is_within(step: Step, goal: Goal, space: Space) -> bool:
    """Whether it is a configuration that may be written, and meets the limit."""
    meets = not step.point.failed and (goal.sla_ms is None or step.latency_ms <= goal.sla_ms)
    return space.is_served(step.trial.settings) and meets


def told(step: Step, goal: Goal) -> str:
    """A step in one line."""
    throughput = step.point.throughput_images_per_s
    line = f"{step.trial}: {throughput:.1f} images/s, p{goal.percentile} {step.latency_ms:.1f} ms"
    if step.expected is None:
        return line
    return f"{line}; predicted {step.expected.throughput_images_per_s:.1f} and {step.expected.latency_ms:.1f}"


def _complexity(trial: Trial) -> tuple[int, int, int, int]:
    settings = trial.settings
    return settings.instances, settings.max_batch, settings.max_queue_delay_us, trial.clients
