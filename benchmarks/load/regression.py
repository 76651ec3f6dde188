"""Whether a load run is worse than an earlier one by more than the noise of both.

Figures are compared by the repetitions (windows) of each run, as logarithms, so that a change is a ratio. One load
alone has too few windows to know its own noise, so the variances of all loads are moderated together:

    Smyth 2004, Linear models and empirical Bayes methods for assessing differential expression in microarray
    experiments, Statistical Applications in Genetics and Molecular Biology 3(1), article 3, sections 4 and 6.2.

Windows of one run lie closer to each other than two runs do (Kalibera and Jones 2013, Rigorous benchmarking in
reasonable time), so the variance from run to run, ``BETWEEN_RUNS``, is added for each of the two. The bound is
Student's t at ``ERROR`` / comparisons (Bonferroni), two-sided, times the standard error of the difference: two runs of
one thing differ by less in all their figures together, but for that share of cases.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.load.points import LoadPoint, LoadReport
from benchmarks.tables import table
from builder.errors import SpecError

ERROR = 0.05
"""Chance that two runs of one thing differ by more in any figure at any load."""
BETWEEN_RUNS: Mapping[str, float] = {"images/s": 0.01, "p50 ms": 0.01, "p99 ms": 0.02}
"""The figures that are compared, and their relative standard deviation from run to run, beyond that of their windows.

Five runs of reports/load_shapes_2cpu_2026-11-22.md: none in the four on a quiet machine, where each window has a server
of its own start; 1.2 %, 0.5 % and 4 % with the fifth, which others disturbed. The quiet would need no allowance."""
ALIKE = ("CPU", "cores", "GPU", "images")
"""Rows of the environment that have to agree: the machine, what is sent and how."""
_PASSING = ("command", "other load")
"""Rows that differ from run to run."""
_LEAST_DEVIATION = 1e-3
"""Windows that agree closer, as those of a constant rate do, do so by rounding."""
COLUMNS = ("load", "figure", "baseline", "new", "worse by", "noise", "")
_TOLD = 3
_HIGHER_IS_BETTER = "images/s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One figure under one load, before and after."""

    load: str
    figure: str
    baseline: float
    """The geometric mean of the windows, as ``new``."""
    new: float
    worse_by: float
    """A latency: new / baseline - 1; the throughput: baseline / new - 1. Below 0 is better."""
    bound: float
    """What noise explains, relative."""

    @property
    def is_regression(self) -> bool:
        """Worse by more than noise."""
        return self.worse_by > self.bound

    @property
    def is_gain(self) -> bool:
        """Better by more than noise."""
        return -self.worse_by > self.bound

    @property
    def is_untold(self) -> bool:
        """Whether noise would cover a figure that is twice as bad."""
        return self.bound > 1 and not (self.is_regression or self.is_gain)

    @property
    def verdict(self) -> str:
        """For a table."""
        if self.is_untold:
            return "cannot tell"
        return "WORSE" if self.is_regression else "better" if self.is_gain else "noise"

    def cells(self) -> tuple[str, ...]:
        """For a table of ``COLUMNS``."""
        figures = (f"{self.baseline:.2f}", f"{self.new:.2f}", f"{self.worse_by:+.1%}", bound_text(self.bound))
        return (self.load, self.figure, *figures, self.verdict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A baseline against a new report of the same model on the same machine."""

    changes: tuple[Change, ...]
    new_failures: tuple[str, ...]
    """Loads under which requests fail now and did not."""
    left_out: tuple[str, ...]
    """Loads that only one of the reports has."""
    differences: tuple[str, ...]
    """What else was different: the versions of tools, say."""

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes for the worse beyond their bound."""
        return tuple(change for change in self.changes if change.is_regression)

    @property
    def is_worse(self) -> bool:
        """Whether anything is worse beyond noise."""
        return bool(self.regressions or self.new_failures)

    def summary(self) -> str:
        """One line."""
        bounds = {
            name: max((change.bound for change in self.changes if change.figure == name), default=0.0)
            for name in BETWEEN_RUNS
        }
        noise = ", ".join(f"{name} up to {bound_text(bound)}" for name, bound in bounds.items())
        found = [f"requests fail now at {load}" for load in self.new_failures]
        worst = sorted(self.regressions, key=lambda change: change.bound - change.worse_by)
        found += [f"{each.figure} at {each.load} {each.worse_by:.1%} worse" for each in worst]
        if len(found) > _TOLD:
            found[_TOLD:] = [f"{len(found) - _TOLD} more"]
        untold = [f"{each.figure} at {each.load}" for each in self.changes if each.is_untold]
        told = f"REGRESSION: {'; '.join(found)}" if found else "" if untold else "no regression"
        if untold:
            told += "; " if told else ""
            told += _untold_words(untold, len(self.changes))
        return f"{told} (noise: {noise})"

    def to_text(self) -> str:
        """A table and the line that sums it up."""
        rows = [change.cells() for change in self.changes]
        lines = [table(COLUMNS, rows)]
        lines += [f"not compared: {load}" for load in self.left_out]
        lines += [f"differs: {line}" for line in self.differences]
        return "\n".join([*lines, self.summary()])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "is_worse": self.is_worse,
            "changes": [{**asdict(change), "verdict": change.verdict} for change in self.changes],
            "new_failures": list(self.new_failures),
            "left_out": list(self.left_out),
            "differences": list(self.differences),
        }


def compare(baseline: LoadReport, new: LoadReport) -> Comparison:
    """Every figure under every load that both have; raises SpecError, with the reasons, where they do not compare."""
    before, after = ({str(point.load): point for point in report.points} for report in (baseline, new))
    shared = [load for load in before if load in after]
    refused = [load for load in map(str, (failure.load for failure in new.failures)) if load in before]
    reasons = _reasons(baseline, new)
    if not shared and not refused:
        reasons.append(f"no load is in both: {', '.join(before)}; {', '.join(after)}")
    reasons += [
        f"{name} has {len(point.windows_images_per_s)} window at {load}, and noise shows from 2 on: measure with "
        "--repeats 3"
        for load in shared
        for name, point in (("baseline", before[load]), ("new", after[load]))
        if len(point.windows_images_per_s) < 2 or len(point.windows_latency_ms) < 2
    ]
    if reasons:
        raise SpecError(f"expected two reports that can be compared, got: {'; '.join(reasons)}; measure a new baseline")
    runs = {load: (before[load], after[load]) for load in shared}
    changes = [change for figure in _FIGURES for change in _changes(figure, runs)] if runs else []
    order = {load: index for index, load in enumerate(shared)}
    return Comparison(
        changes=tuple(sorted(changes, key=lambda change: order[change.load])),
        new_failures=(*refused, *(load for load in shared if after[load].failed and not before[load].failed)),
        left_out=tuple(
            [f"{load}, only in the baseline" for load in before if load not in (*after, *refused)]
            + [f"{load}, only in the new report" for load in after if load not in before]
        ),
        differences=_differences(baseline.environment, new.environment),
    )


def _untold_words(untold: Sequence[str], compared: int) -> str:
    rest = "" if len(untold) == compared else "; the others are told in the table"
    which = ", ".join([*untold[:_TOLD], *([f"{len(untold) - _TOLD} more"] if len(untold) > _TOLD else [])])
    return (
        "these runs cannot tell whether it is worse: their repetitions differ by so much that twice as bad would be "
        f"noise ({which}){rest}; measure both again on a quiet machine, with more --repeats"
    )


def bound_text(bound: float) -> str:
    """A bound beyond 100 % tells no more than that: the windows are too few, or the machine was not quiet."""
    return f"{bound:.1%}" if bound <= 1 else "> 100%"


def noise_of(report: LoadReport) -> Mapping[str, Mapping[str, float]]:
    """By how much two runs like this one may differ, relative, by figure and load; empty with one repetition."""
    if any(len(point.windows_images_per_s) < 2 for point in report.points):
        return {}
    loads = [str(point.load) for point in report.points]
    return {
        figure: dict(zip(loads, _bounds(figure, [[_logs(figure, point)] for point in report.points]), strict=True))
        for figure in _FIGURES
    }


def _latencies(percentile: int) -> Callable[[LoadPoint], Sequence[float]]:
    return lambda point: [window.percentile(percentile) for window in point.windows_latency_ms]


_FIGURES: Mapping[str, Callable[[LoadPoint], Sequence[float]]] = {
    "images/s": lambda point: point.windows_images_per_s,
    "p50 ms": _latencies(50),
    "p99 ms": _latencies(99),
}


def _reasons(baseline: LoadReport, new: LoadReport) -> list[str]:
    """Why two reports are not of one thing."""
    pairs = [("model", baseline.model, new.model), ("GPU", baseline.gpu or "none", new.gpu or "none")]
    pairs += [(row, baseline.environment.get(row, "none"), new.environment.get(row, "none")) for row in ALIKE]
    return [f"{name} {before} and {after}" for name, before, after in pairs if before != after]


def _differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    rows = [row for row in dict.fromkeys([*before, *after]) if row not in (*ALIKE, *_PASSING)]
    return tuple(
        f"{row}: {before.get(row, 'none')}, now {after.get(row, 'none')}"
        for row in rows
        if before.get(row) != after.get(row)
    )


def _changes(figure: str, runs: Mapping[str, tuple[LoadPoint, LoadPoint]]) -> list[Change]:
    """One figure under all loads, before and after."""
    logs = [(_logs(figure, before), _logs(figure, after)) for before, after in runs.values()]
    changes = []
    for load, (before, after), bound in zip(runs, logs, _bounds(figure, logs), strict=True):
        grown = statistics.fmean(after) - statistics.fmean(before)
        changes.append(
            Change(
                load=load,
                figure=figure,
                baseline=math.exp(statistics.fmean(before)),
                new=math.exp(statistics.fmean(after)),
                worse_by=math.expm1(-grown if figure == _HIGHER_IS_BETTER else grown),
                bound=bound,
            )
        )
    return changes


def _logs(figure: str, point: LoadPoint) -> list[float]:
    # A window in which nothing was answered has no logarithm; a thousandth of an image is as bad.
    return [math.log(max(value, 1e-3)) for value in _FIGURES[figure](point)]


def _bounds(figure: str, logs: Sequence[Sequence[Sequence[float]]]) -> list[float]:
    """By load, what noise explains of one figure; ``logs`` are its windows in one run, for which a second is to be
    imagined, or in two.
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    freedoms = [sum(len(run) - 1 for run in runs) for runs in logs]
    variances = [
        max(sum((len(run) - 1) * statistics.variance(run) for run in runs) / freedom, _LEAST_DEVIATION**2)
        for runs, freedom in zip(logs, freedoms, strict=True)
    ]
    error = ERROR / (2 * len(logs) * len(_FIGURES))
    bounds = []
    for runs, (variance, freedom) in zip(logs, moderate(variances, freedoms), strict=True):
        inverse_windows = 2 / len(runs) * sum(1 / len(run) for run in runs)
        deviation = math.sqrt(variance * inverse_windows + 2 * BETWEEN_RUNS[figure] ** 2)
        bounds.append(math.expm1(float(stdtrit(freedom, 1 - error)) * deviation))
    return bounds


def moderate(variances: Sequence[float], freedoms: Sequence[int]) -> list[tuple[float, float]]:
    """Variance and degrees of freedom of each, drawn towards what is common to all as far as they agree.

    Smyth 2004, section 6.2: the logarithms of the variances give the degrees of freedom that the common variance is
    worth; where they differ no more than chance makes them, that is all of them.
    """
    from scipy.special import digamma, polygamma

    if len(variances) < 2:
        return [(variance, float(freedom)) for variance, freedom in zip(variances, freedoms, strict=True)]
    halves = [freedom / 2 for freedom in freedoms]
    logs = [
        math.log(variance) - float(digamma(half)) + math.log(half)
        for variance, half in zip(variances, halves, strict=True)
    ]
    excess = statistics.variance(logs) - statistics.fmean(float(polygamma(1, half)) for half in halves)
    if excess <= 0:
        pooled = sum(v * f for v, f in zip(variances, freedoms, strict=True)) / sum(freedoms)
        return [(pooled, float(sum(freedoms)))] * len(variances)
    half = _inverse_trigamma(excess)
    common = math.exp(statistics.fmean(logs) + float(digamma(half)) - math.log(half))
    prior = 2 * half
    return [
        ((prior * common + freedom * variance) / (prior + freedom), min(prior + freedom, float(sum(freedoms))))
        for variance, freedom in zip(variances, freedoms, strict=True)
    ]


def _inverse_trigamma(value: float) -> float:
    """x above 0 with trigamma(x) = value; trigamma falls from infinity to 0."""
    from scipy.special import polygamma

    low, high = 1e-8, 1e8
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if polygamma(1, middle) > value else (low, middle)
    return low
