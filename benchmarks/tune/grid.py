"""The exhaustive grid: every configuration under every load level, and what share of its best a tuning reached.

A grid takes long, so what is measured is kept in a file, line by line, and a later run goes on where one was stopped.
The highest of many measurements is partly luck. So the best few of the grid and the tuned winner are measured again, in
turns, and the share is of the medians.
"""

from __future__ import annotations

import dataclasses
import json
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.load.points import LoadPoint
from benchmarks.perf_analyzer import find_perf_analyzer
from benchmarks.tables import key_values, table
from benchmarks.tune.report import SCHEMA, short, trial_json
from benchmarks.tune.run import TuneOptions, environment_of, searched
from benchmarks.tune.space import Goal, Space, Trial
from benchmarks.tune.surface import Surface, TrialFailedError
from benchmarks.tune.triton_surface import serving
from builder.errors import SpecError

FINALISTS = 3
TURNS = 5
SHOWN = 12

Measured = dict[Trial, LoadPoint | None]
"""None where a request failed, or the configuration did not load."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GridReport:
    """All of a grid, and the last round between its best and the tuned winner."""

    model: str
    goal: Goal
    configurations: int
    measured: Mapping[Trial, LoadPoint | None]
    finals: Mapping[Trial, Sequence[LoadPoint]]
    tuned: Trial | None
    tuned_measurements: int
    environment: Mapping[str, str]

    @property
    def share(self) -> float | None:
        """The tuned winner's throughput / the best finalist's, medians of the last round."""
        if self.tuned is None:
            return None
        best = max(_median(points) for trial, points in self.finals.items() if trial != self.tuned)
        return _median(self.finals[self.tuned]) / best

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "benchmark": "tune-grid",
            "model": self.model,
            "goal": dataclasses.asdict(self.goal),
            "configurations": self.configurations,
            "points": [_row(trial, point) for trial, point in self.measured.items()],
            "finals": [
                {
                    "trial": trial_json(trial),
                    "tuned": trial == self.tuned,
                    "points": [each.to_json() for each in points],
                }
                for trial, points in self.finals.items()
            ],
            "share": self.share,
            "tuned_measurements": self.tuned_measurements,
            "environment": dict(self.environment),
        }

    def to_text(self) -> str:
        """What is printed."""
        best = _best(self.measured, self.goal)
        limit = f" with p{self.goal.percentile} within {self.goal.sla_ms:g} ms" if self.goal.sla_ms else ""
        lines = [
            f"{self.model}: {self.configurations} configurations, {len(self.measured)} measurements{limit}; the best "
            f"load of the {min(SHOWN, len(best))} best:",
            "",
            _points_table(self.goal, best[:SHOWN], self.measured),
            "",
        ]
        if self.tuned:
            lines += [
                f"the best {FINALISTS} and the tuned winner again, {TURNS} times in turns, medians:",
                "",
                _finals_table(self),
                "",
                f"tune reached {self.share:.3f} of the grid's best with {self.tuned_measurements} measurements",
                "",
            ]
        return "\n".join([*lines, key_values(self.environment)])


def compare_with_grid(
    options: TuneOptions,
    keep: Path,
    clients: Sequence[int],
    against: Path | None,
    *,
    argv: Sequence[str],
    progress: Callable[[str], None],
) -> GridReport:
    """Measure what is not in ``keep`` yet, then the last round.

    Raises:
        BuilderError: the request is wrong, or the server cannot be started or measured.
    """
    config, space = searched(options)
    tuned, tuned_measurements = read_winner(against, space) if against else (None, 0)
    trials = grid_trials(space, clients)
    measured = _kept(keep, trials)
    analyzer = find_perf_analyzer(options.perf_analyzer)
    with serving(options.repository, options.config_name, config, analyzer, options.timing) as surface:
        for number, trial in enumerate(trials, start=1):
            if trial not in measured:
                measured[trial] = _measured(surface, trial)
                with keep.open("a") as file:
                    file.write(json.dumps(_row(trial, measured[trial])) + "\n")
                progress(f"{number}/{len(trials)} {trial}")
        finalists = [trial for trial in _best(measured, options.goal) if trial != tuned][:FINALISTS]
        finals = _last_round(surface, [*finalists, tuned], progress) if tuned else {}
        rows = environment_of(surface, argv)
    return GridReport(
        model=options.model,
        goal=options.goal,
        configurations=space.size,
        measured=measured,
        finals=finals,
        tuned=tuned,
        tuned_measurements=tuned_measurements,
        environment=rows,
    )


def grid_trials(space: Space, clients: Sequence[int]) -> list[Trial]:
    """Every configuration under every load level, in an order in which a slow hour of the machine meets all alike."""
    configurations = list(space.configurations())
    random.Random(0).shuffle(configurations)  # noqa: S311 -- an order, no secret
    return [Trial(settings=settings, clients=each) for settings in configurations for each in clients]


def read_winner(path: Path, space: Space) -> tuple[Trial, int]:
    """The winner and the number of measurements that ``tune --json`` wrote; raises SpecError for anything else."""
    try:
        value = json.loads(path.read_text())
        if value.get("schema") != SCHEMA or not value["winner"]:
            raise ValueError("it has no winner" if value.get("schema") == SCHEMA else "it is something else")
        return _trial(value["winner"]["trial"], space), int(value["measurements"]["used"])
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(
            f"--against {path}: expected a file of python -m benchmarks tune --json, got: {error}"
        ) from error


def _trial(value: Mapping[str, int], space: Space) -> Trial:
    settings = space.settings(value["max_batch"], value["instances"], value["max_queue_delay_us"])
    return Trial(settings=settings, clients=value["clients"])


def _kept(path: Path, trials: Sequence[Trial]) -> Measured:
    """What a former run measured of these."""
    known = {json.dumps(trial_json(trial)): trial for trial in trials}
    kept: Measured = {}
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                row = json.loads(line)
                trial = known.get(json.dumps(row["trial"]))
                point = LoadPoint.from_json(row["point"]) if row["point"] else None
            except (KeyError, TypeError, ValueError) as error:
                raise SpecError(f"--grid {path}: expected the measurements of a grid, got: {line[:80]}") from error
            if trial:
                kept[trial] = point
    return kept


def _row(trial: Trial, point: LoadPoint | None) -> dict[str, Any]:
    return {"trial": trial_json(trial), "point": point.to_json() if point else None}


def _measured(surface: Surface, trial: Trial) -> LoadPoint | None:
    try:
        return surface.measure(trial)
    except TrialFailedError:
        return None


def _last_round(
    surface: Surface, trials: Sequence[Trial], progress: Callable[[str], None]
) -> dict[Trial, list[LoadPoint]]:
    points: dict[Trial, list[LoadPoint]] = {trial: [] for trial in trials}
    for turn in range(TURNS):
        for trial in trials:
            points[trial].append(surface.measure(trial))
        progress(f"last round {turn + 1}/{TURNS}")
    return points


def _best(measured: Mapping[Trial, LoadPoint | None], goal: Goal) -> list[Trial]:
    """Of each configuration the load with the most throughput within the limit, the best first."""
    best: dict[tuple[int, int, int], tuple[float, Trial]] = {}
    for trial, point in measured.items():
        if point is None or point.failed:
            continue
        if goal.sla_ms is not None and point.latency_ms.percentile(goal.percentile) > goal.sla_ms:
            continue
        settings = trial.settings
        name = (settings.max_batch, settings.instances, settings.max_queue_delay_us)
        if point.throughput_images_per_s > best.get(name, (0.0, trial))[0]:
            best[name] = point.throughput_images_per_s, trial
    return [trial for _, trial in sorted(best.values(), key=lambda each: -each[0])]


def _median(points: Sequence[LoadPoint]) -> float:
    return statistics.median(point.throughput_images_per_s for point in points)


def _points_table(goal: Goal, trials: Sequence[Trial], measured: Mapping[Trial, LoadPoint | None]) -> str:
    rows = []
    for trial in trials:
        point = measured[trial]
        assert point
        latency_ms = point.latency_ms.percentile(goal.percentile)
        rows.append((short(trial), f"{point.throughput_images_per_s:.1f}", f"{latency_ms:.1f}"))
    return table(("batch x instances, delay, clients", "images/s", f"p{goal.percentile} ms"), rows)


def _finals_table(report: GridReport) -> str:
    rows = []
    for trial, points in report.finals.items():
        latency_ms = statistics.median(point.latency_ms.percentile(report.goal.percentile) for point in points)
        name = f"{short(trial)}{' (tuned)' if trial == report.tuned else ''}"
        rows.append((name, f"{_median(points):.1f}", f"{latency_ms:.1f}"))
    return table(("batch x instances, delay, clients", "images/s", f"p{report.goal.percentile} ms"), rows)
