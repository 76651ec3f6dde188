"""The report of a scaling run as one page: what was measured, the check of the formula, and what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from benchmarks.charts import Row, Series, bar_chart, line_chart, stacked_bars
from benchmarks.machine import other_load_text
from benchmarks.scaling.prediction import predict
from benchmarks.scaling.report import FEWER_IMAGES, ScalingReport
from builder.page import definitions, document, escaped, figure, row, table

_MOST_WORKERS = 64


def page(report: ScalingReport) -> str:
    """HTML that needs no other file and no network."""
    return document(
        f"Scaling of {report.start}",
        (
            f"<p>{escaped(report.what())}</p><p>{escaped(other_load_text(report.other_cpu_share))}.</p>",
            _measured(report),
            _checks(report),
            _predicted(report),
            f"<h2>Measured on</h2>{definitions(report.environment)}",
        ),
    )


def _measured(report: ScalingReport) -> str:
    if not report.measured:
        rows = [(f"1 × {images}", figure(1e3 * spread.median, 1)) for images, spread in report.one.items()]
        return f"<h2>Measured</h2>{table(row(('workers × images', 'step ms'), 'th'), (rows,))}"
    parts = list(report.measured[0].parts_s)
    bars = [
        Row(name=f"1 × {images}", values=[1e3 * spread.median, None, None, None])
        for images, spread in report.one.items()
    ]
    bars += [
        Row(
            name=f"{each.workers} × {each.images}",
            values=_stacked([1e3 * value for value in each.parts_s.values()]),
        )
        for each in report.measured
    ]
    efficiency = [
        Row(
            name=f"{each.workers} × {each.images}",
            values=[100 * each.efficiency.median],
            ranges=[(100 * each.efficiency.lowest, 100 * each.efficiency.highest)],
        )
        for each in report.measured
    ]
    return (
        "<h2>Measured</h2><p>Rows are workers × images of each. A step with nothing exchanged shows what workers of "
        "one machine take from each other; batch norm and loss of the global batch bring waiting for the slowest.</p>"
        + stacked_bars(bars, parts, x_label="ms", label="What a step is made of")
        + bar_chart(
            efficiency,
            x_label="% of workers times one worker's images/s",
            label="Efficiency",
            limit=100.0,
            limit_label="100",
        )
    )


def _stacked(parts: Sequence[float]) -> list[float]:
    """The parts as bars whose sum is the whole: where noise has made one less than nothing, those before it give."""
    whole = sum(parts)
    ends = [min(end, whole) for end in accumulate(parts)]
    ends = [max(ends[: place + 1]) for place in range(len(ends))]
    return [end - start for start, end in pairwise([0.0, *ends])]


def _checks(report: ScalingReport) -> str:
    if not report.checks:
        return ""
    head = row(("workers × images", "predicted ms", "measured ms", "error", "with what they take of each other"), "th")
    lines = [
        (
            f"{each.measured.workers} × {each.measured.images}",
            figure(1e3 * each.predicted.longest_s, 1),
            figure(1e3 * each.measured.step_s.median, 1),
            f"{each.error:+.1%}",
            f"{each.error_beside_others:+.1%}",
        )
        for each in report.checks
    ]
    links = dict.fromkeys(str(each.predicted.link) for each in report.checks)
    return (
        "<h2>The formula against what was measured</h2><p>By the link as measured here, nothing hidden behind "
        f"backward: {escaped('; '.join(links))}.</p>{table(head, (lines,))}"
        + "".join(f"<p><strong>{escaped(doubt)}</strong></p>" for doubt in report.doubts())
    )


def _predicted(report: ScalingReport) -> str:
    links = list(dict.fromkeys(each.link for each in report.predicted))
    if not links:
        return ""
    most = max(_MOST_WORKERS, *(each.workers for each in report.predicted))
    counts = [2**power for power in range(most.bit_length())]
    series = [
        Series(
            name=str(link),
            points=[
                (
                    float(count),
                    100 * predict(report.workload, link, count, report.batch).efficiency(report.images_per_s)[0],
                )
                for count in counts
            ],
        )
        for link in links
    ]
    head = row(("workers × images", "link", "step ms", "efficiency", "communication"), "th")
    lines = []
    for each in (*report.predicted, *report.predicted_strong):
        low, high = each.efficiency(report.images_per_s)
        least, worst = each.communication
        lines.append(
            (
                f"{each.workers} × {each.images:g}",
                escaped(str(each.link)),
                f"{1e3 * each.longest_s:.1f}–{1e3 * each.shortest_s:.1f}",
                f"{low:.1%}–{high:.1%}",
                f"{worst:.1%}–{least:.1%}",
            )
        )
    chart = line_chart(
        series,
        x_label="workers",
        y_label="efficiency, %, nothing hidden",
        label="Predicted efficiency with the same batch for each worker",
        log_x=True,
    )
    return (
        "<h2>Predicted, not measured</h2><p>The step of one worker as measured, exchanges by formula, the same link "
        "between all workers. From nothing hidden to all hidden that backward can hide. Left out are waiting for the "
        "slowest, the loading of data, and what workers of one machine take from each other. "
        f"{escaped(FEWER_IMAGES)}</p>"
        f"{chart}{table(head, (lines,))}"
    )
