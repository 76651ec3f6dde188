"""The report of a tuning as one page: the verdict, what was measured and predicted, and the model that predicted it."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.charts import Draw, Row, Series, bar_chart, line_chart
from benchmarks.tune.report import (
    MEASUREMENT,
    TuneReport,
    fit_lines,
    goal_words,
    missed_words,
    short,
    verdict,
    warnings,
    winner_words,
)
from benchmarks.tune.search import Outcome, Step
from builder.page import definitions, document, escaped, figure, row, table

_CURVE_POINTS = 33


def page(report: TuneReport) -> str:
    """HTML that needs no other file and no network."""
    outcome = report.outcome
    return document(
        f"Tuning of {report.model}, configs/{report.config_name}.pbtxt",
        (
            _verdict(report),
            _trials(outcome),
            _predictions(outcome),
            _service(outcome),
            _searched(outcome),
            _environment(report),
        ),
    )


def _verdict(report: TuneReport) -> str:
    outcome, winner = report.outcome, report.outcome.winner
    kind = "passed" if winner else "failed"
    told = (
        f"<strong>{escaped(winner_words(outcome, winner))}</strong>"
        if winner
        else f"<strong>Goal missed:</strong> {escaped(missed_words(outcome))}"
    )
    used = len(outcome.steps) + len(outcome.failed)
    told_too = warnings(outcome, winner) if winner else []
    warned = "".join(f"<li>{escaped(line)}</li>" for line in told_too)
    written = f"<li>written: {escaped(report.written)}</li>" if report.written else ""
    return (
        f'<section class="verdict {kind}"><p>{told}</p><ul><li>wanted: {escaped(goal_words(outcome))}</li>'
        f"<li>{used} of {outcome.allowed} measurements; {escaped(outcome.reason)}</li>{warned}{written}</ul></section>"
    )


def _trials(outcome: Outcome) -> str:
    percentile = f"p{outcome.goal.percentile}"
    kinds: dict[str, list[Step]] = {"probe": [], "confirmation": [], "winner": []}
    for step in outcome.steps:
        kind = "winner" if step is outcome.winner else "confirmation" if step.is_confirmation else "probe"
        kinds[kind].append(step)
    series = [
        Series(
            name=name,
            points=[(step.point.throughput_images_per_s, step.latency_ms) for step in steps],
            notes=[str(step.trial) for step in steps],
            draw=Draw.POINTS,
        )
        for name, steps in kinds.items()
        if steps
    ]
    chart = line_chart(
        series,
        x_label="images/s",
        y_label=f"{percentile}, ms",
        label=f"Throughput and {percentile} of what was measured",
        limit=outcome.goal.sla_ms,
    )
    return f"<h2>What was measured</h2><p>{escaped(MEASUREMENT)} Rest the pointer on a mark for its trial.</p>{chart}"


def _predictions(outcome: Outcome) -> str:
    """Bars of what was predicted before a measurement beside what was measured."""
    confirmed = [step for step in outcome.steps if step.expected]
    if not confirmed:
        return ""
    percentile = f"p{outcome.goal.percentile}"
    latencies = [Row(name=short(step.trial), values=_latencies(step)) for step in confirmed]
    throughputs = [Row(name=short(step.trial), values=_throughputs(step)) for step in confirmed]
    parts = ("measured", "predicted", "queue model alone")
    lines = "".join(f"<li>{escaped(line)}</li>" for line in fit_lines(outcome))
    return (
        "<h2>Predicted against measured</h2><p>Every prediction was made before its measurement: the queue model's, "
        "and the same corrected by the errors that it had shown until then. Rows are batch x instances, "
        "delay, clients.</p>"
        f"<ul>{lines}</ul>"
        + bar_chart(
            latencies, parts, x_label="ms", label=f"{percentile} of the confirmations", limit=outcome.goal.sla_ms
        )
        + bar_chart(throughputs, parts, x_label="images/s", label="Throughput of the confirmations")
    )


def _latencies(step: Step) -> Sequence[float | None]:
    return (
        step.latency_ms,
        step.expected.latency_ms if step.expected else None,
        step.model.latency_ms if step.model else None,
    )


def _throughputs(step: Step) -> Sequence[float | None]:
    return (
        step.point.throughput_images_per_s,
        step.expected.throughput_images_per_s if step.expected else None,
        step.model.throughput_images_per_s if step.model else None,
    )


def _service(outcome: Outcome) -> str:
    service = outcome.model.service
    most = max(*service.batches, *outcome.space.batches)
    step = max(1, most // (_CURVE_POINTS - 1))
    curve = [(float(batch), service(batch) * 1e3) for batch in range(1, most + 1, step)]
    known = list(zip(map(float, service.batches), (each * 1e3 for each in service.seconds), strict=True))
    chart = line_chart(
        [
            Series(name="model", points=curve, draw=Draw.LINE),
            Series(name="measured", points=known, draw=Draw.POINTS),
        ],
        x_label="images of an execution",
        y_label="ms",
        label="Service time by batch",
    )
    return (
        "<h2>The model's service times</h2><p>How long an execution holds its instance, from one instance that is "
        f"never idle. What further instances add is said above.</p>{chart}"
    )


def _searched(outcome: Outcome) -> str:
    space = outcome.space
    head = row(
        ("trial", "images/s", "predicted", f"p{outcome.goal.percentile} ms", "predicted", "mean batch", ""), "th"
    )
    lines = [
        (
            escaped(str(step.trial)),
            figure(step.point.throughput_images_per_s, 1),
            figure(step.expected.throughput_images_per_s, 1) if step.expected else "–",
            figure(step.latency_ms, 1),
            figure(step.expected.latency_ms, 1) if step.expected else "–",
            figure(step.point.mean_batch, 1),
            escaped(verdict(outcome, step)),
        )
        for step in outcome.steps
    ]
    failed = "".join(f"<li>{escaped(trial)}: {escaped(reason)}</li>" for trial, reason in outcome.failed)
    searched = (
        f"Searched: batches {', '.join(map(str, space.batches))}; instances {', '.join(map(str, space.instances))}; "
        f"delays {', '.join(f'{each / 1000:g}' for each in space.delays_us)} ms: {space.size} configurations."
    )
    return f"<h2>All measurements</h2><p>{searched}</p>{table(head, (lines,))}" + (
        f"<p>Failed:</p><ul>{failed}</ul>" if failed else ""
    )


def _environment(report: TuneReport) -> str:
    return f"<h2>Measured on</h2>{definitions(report.environment)}"
