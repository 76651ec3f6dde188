"""What a tuning found: the space, the model's fit, every measurement with what was predicted, the winner."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.queueing.batcher import Answers
from benchmarks.tables import key_values, table
from benchmarks.tune.model import Prediction
from benchmarks.tune.search import EQUAL, Outcome, Step, is_within
from benchmarks.tune.space import Space, Trial, has_policy

SCHEMA = "tune/1"
MEASUREMENT = "A measurement is one load level on one configuration: a closed loop of clients, one image per request."


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """|predicted / measured - 1| over the confirmations: the median of each."""

    throughput: float
    latency: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneReport:
    """An outcome, and what became of it."""

    model: str
    config_name: str
    outcome: Outcome
    written: str | None
    """The configuration that was written; None where none was."""
    environment: Mapping[str, str]

    @property
    def all_met(self) -> bool:
        """Whether there is a configuration that meets the limit."""
        return self.outcome.winner is not None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        outcome, winner = self.outcome, self.outcome.winner
        confirmed = [step for step in outcome.steps if step.is_confirmation]
        return {
            "benchmark": "tune",
            "schema": SCHEMA,
            "model": self.model,
            "config_name": self.config_name,
            "goal": dataclasses.asdict(outcome.goal),
            "space": _space_json(outcome.space),
            "measurements": {"allowed": outcome.allowed, "used": len(outcome.steps) + len(outcome.failed)},
            "fit": {
                "service_ms": {
                    str(batch): seconds * 1e3
                    for batch, seconds in zip(outcome.model.service.batches, outcome.model.service.seconds, strict=True)
                },
                "overhead_ms": outcome.model.overhead_s * 1e3,
                "slowdown": {str(batch): each for batch, each in outcome.model.slowdown.measured},
                "jitter": outcome.model.jitter,
                "answers": outcome.model.answers.value,
            },
            "steps": [_step_json(step) for step in outcome.steps],
            "failed": [{"trial": trial_json(trial), "reason": reason} for trial, reason in outcome.failed],
            "errors": {
                "queue_model": _errors_json(errors(confirmed, corrected=False)),
                "predicted": _errors_json(errors(confirmed, corrected=True)),
            },
            "winner": _step_json(winner) if winner else None,
            "max_queue_size": outcome.queue_bound if winner else None,
            "reason": outcome.reason,
            "written": self.written,
            "environment": dict(self.environment),
        }

    def to_text(self) -> str:
        """What is printed."""
        outcome = self.outcome
        used = len(outcome.steps) + len(outcome.failed)
        lines = [
            f"{self.model}, configs/{self.config_name}.pbtxt: {goal_words(outcome)}",
            f"{used} of {outcome.allowed} measurements of {outcome.space.size} configurations: {outcome.reason}",
            MEASUREMENT,
            "",
            _steps_table(outcome),
            "",
            *(f"failed: {trial}: {reason}" for trial, reason in outcome.failed),
            *fit_lines(outcome),
            "",
            *self._verdict(),
            "",
            key_values(self.environment),
        ]
        return "\n".join(lines)

    def _verdict(self) -> list[str]:
        winner = self.outcome.winner
        if winner is None:
            return [f"MISSED: {missed_words(self.outcome)}; nothing was written"]
        lines = [f"winner: {winner_words(self.outcome, winner)}", *warnings(self.outcome, winner)]
        if self.written:
            lines += [
                f"written: {self.written}, everything else of it as it was; python -m builder verify will say that it "
                "differs from what was published, and the next build replaces it",
            ]
        return lines


def goal_words(outcome: Outcome) -> str:
    """What was asked for."""
    goal = outcome.goal
    if goal.sla_ms is None:
        return "the highest throughput"
    return f"the highest throughput with p{goal.percentile} within {goal.sla_ms:g} ms"


def winner_words(outcome: Outcome, winner: Step) -> str:
    """The winner in one line."""
    percentile, bound = outcome.goal.percentile, outcome.queue_bound
    return (
        f"{winner.trial}: {winner.point.throughput_images_per_s:.1f} images/s, p{percentile} "
        f"{winner.latency_ms:.1f} ms; the queue holds {bound or 'any number'}"
    )


def warnings(outcome: Outcome, winner: Step) -> list[str]:
    """What a closed loop does not show of a winner, and a single measurement that is above it."""
    above = _above(outcome, winner)
    if winner.trial.settings.instances > 1 or not outcome.queue_bound:
        return above
    return [
        *above,
        "warning: with one instance and a queue policy, Triton may let a request that comes while it is busy lie for "
        "up to 500 ms, unless the model returns before its images are done, as this project's on the CPU; where "
        "requests come at random, compare with two (benchmarks/reports/queue-policy_2cpu_2026-11-22.md)",
    ]


def _above(outcome: Outcome, winner: Step) -> list[str]:
    """Why a trial that was measured within the limit, with more throughput than the winner, did not win."""
    within = [step for step in outcome.steps if is_within(step, outcome.goal, outcome.space)]
    most = max(within, key=lambda step: step.point.throughput_images_per_s, default=winner)
    more = most.point.throughput_images_per_s / winner.point.throughput_images_per_s - 1
    if more <= 0:
        return []
    return [
        f"weighed: {most.trial} was measured once with {most.point.throughput_images_per_s:.1f} images/s, {more:.1%} "
        "more than the winner; of one measurement the model of all of them believes a part, and of trials that it "
        f"holds for alike (within {EQUAL:.1%}) the simplest wins"
    ]


def missed_words(outcome: Outcome) -> str:
    """What came nearest to the limit."""
    percentile = outcome.goal.percentile
    nearest = min(outcome.steps, key=lambda step: step.latency_ms)
    return (
        f"no configuration was found with p{percentile} within {outcome.goal.sla_ms:g} ms; the least was "
        f"{nearest.latency_ms:.1f} ms with {nearest.trial}"
    )


def fit_lines(outcome: Outcome) -> list[str]:
    """The model in words."""
    model = outcome.model
    curve = ", ".join(
        f"{batch}: {seconds * 1e3:.1f}"
        for batch, seconds in zip(model.service.batches, model.service.seconds, strict=True)
    )
    slowdown = ", ".join(f"{batch}: {each:.0%}" for batch, each in model.slowdown.measured) or "not measured"
    together = "together" if model.answers is Answers.TOGETHER else "one by one"
    lines = [
        f"service time in ms by images of an execution: {curve}; jitter {model.jitter:.1%}",
        f"each further busy instance makes an execution longer, in % by images: {slowdown}; overhead "
        f"{model.overhead_s * 1e3:.1f} ms; answers come {together}",
    ]
    confirmed = [step for step in outcome.steps if step.is_confirmation]
    if confirmed:
        alone, corrected = errors(confirmed, corrected=False), errors(confirmed, corrected=True)
        assert alone
        assert corrected
        percentile = f"p{outcome.goal.percentile}"
        lines.append(
            f"median error over {len(confirmed)} confirmations, before each was measured: queue model "
            f"{alone.throughput:.1%} of the throughput and {alone.latency:.1%} of {percentile}; corrected by the "
            f"errors seen until then {corrected.throughput:.1%} and {corrected.latency:.1%}"
        )
    return lines


def errors(confirmed: list[Step], *, corrected: bool) -> Errors | None:
    """Of the queue model alone, or with the corrections; None without confirmations."""
    throughputs, latencies = [], []
    for step in confirmed:
        prediction = step.expected if corrected else step.model
        assert prediction is not None
        throughputs.append(abs(prediction.throughput_images_per_s / step.point.throughput_images_per_s - 1))
        latencies.append(abs(prediction.latency_ms / step.latency_ms - 1))
    if not confirmed:
        return None
    return Errors(throughput=statistics.median(throughputs), latency=statistics.median(latencies))


def _steps_table(outcome: Outcome) -> str:
    percentile = f"p{outcome.goal.percentile} ms"
    header = ("batch x instances, delay, clients", "images/s", "predicted", percentile, "predicted", "batch", "")
    rows = []
    for step in outcome.steps:
        expected = step.expected
        rows.append(
            (
                short(step.trial),
                f"{step.point.throughput_images_per_s:.1f}",
                f"{expected.throughput_images_per_s:.1f}" if expected else "-",
                f"{step.latency_ms:.1f}",
                f"{expected.latency_ms:.1f}" if expected else "-",
                f"{step.point.mean_batch:.1f}",
                verdict(outcome, step),
            )
        )
    return table(header, rows)


def verdict(outcome: Outcome, step: Step) -> str:
    """A word on a step."""
    limit = outcome.goal.sla_ms
    if step is outcome.winner:
        return "winner"
    if step.point.failed:
        return "failed requests"
    if limit is not None and step.latency_ms > limit:
        return "too late"
    if step.is_confirmation:
        return ""
    winner = outcome.winner
    is_check = (
        winner and step.trial != winner.trial and has_policy(step.trial.settings) != has_policy(winner.trial.settings)
    )
    return "its queue bounded" if is_check and step is outcome.steps[-1] else "probe"


def short(trial: Trial) -> str:
    """A trial in a cell."""
    settings = trial.settings
    return f"{settings.max_batch} x {settings.instances}, {settings.max_queue_delay_us / 1000:g} ms, {trial.clients}"


def trial_json(trial: Trial) -> dict[str, int]:
    """Plain values."""
    settings = trial.settings
    return {
        "max_batch": settings.max_batch,
        "instances": settings.instances,
        "max_queue_delay_us": settings.max_queue_delay_us,
        "clients": trial.clients,
    }


def _space_json(space: Space) -> dict[str, Any]:
    return {
        "batches": list(space.batches),
        "instances": list(space.instances),
        "delays_us": list(space.delays_us),
        "configurations": space.size,
    }


def _step_json(step: Step) -> dict[str, Any]:
    return {
        "kind": "confirmation" if step.is_confirmation else "probe",
        "trial": trial_json(step.trial),
        "measured": step.point.to_json(),
        "queue_model": _prediction_json(step.model),
        "predicted": _prediction_json(step.expected),
    }


def _prediction_json(prediction: Prediction | None) -> dict[str, float] | None:
    return dataclasses.asdict(prediction) if prediction else None


def _errors_json(value: Errors | None) -> dict[str, float] | None:
    return dataclasses.asdict(value) if value else None
