"""The page: latency by request number, with warmup and without, as medians over the turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.charts import Draw, Row, Series, bar_chart, line_chart
from benchmarks.coldstart.figures import Requests
from benchmarks.coldstart.report import HOW, LARGEST_FIRST, ColdstartReport
from benchmarks.coldstart.variants import Warmup
from benchmarks.machine import other_load_text
from benchmarks.svg import LOOKS
from builder.page import definitions, document, escaped


def page(report: ColdstartReport) -> str:
    """HTML that needs no other file and no network."""
    return document(f"Cold start of {', '.join(report.models)}", _sections(report))


def _sections(report: ColdstartReport) -> Iterator[str]:
    failed = "" if report.all_met else " failed"
    verdicts = "".join(f"<p>{escaped(line)}</p>" for line in report.target_lines())
    keepwarm = report.keepwarm_text()
    verdicts += f"<p>{escaped(keepwarm)}</p>" if keepwarm else ""
    yield f'<div class="verdict{failed}">{verdicts}</div>' if verdicts else ""
    yield f"<p>{escaped(HOW)}</p><p>{escaped(other_load_text(report.other_cpu_share))}</p>"
    for model in report.started:
        yield f"<h2>{escaped(model)}: latency by request number after READY</h2>"
        yield _by_number(report, model)
        yield "<h3>From the start of the process to READY</h3>"
        yield _readiness(report, model)
    if report.switches:
        yield "<h2>After a switch</h2>"
        yield _after_a_switch(report)
    if report.idlings:
        yield f"<h2>After {report.idlings[0].idle_s:g} s idle</h2>"
        yield _after_idling(report)
    yield "<h2>Where and with what</h2>"
    yield definitions(report.environment)


def _by_number(report: ColdstartReport, model: str) -> str:
    series = [
        _series(str(warmup), [start.requests for start in report.of(name, warmup)])
        for name, warmup in report.arrangements
        if name == model
    ]
    steady_ms = median(start.requests.steady_ms for start in report.of(model, Warmup.AS_BUILT))
    return line_chart(
        series,
        x_label="request after READY",
        y_label="milliseconds",
        label=f"{model}: milliseconds of each request after READY, by its number",
        limit=LARGEST_FIRST * steady_ms,
        limit_label=f"{LARGEST_FIRST:g} x steady, as built",
    )


def _readiness(report: ColdstartReport, model: str) -> str:
    rows = []
    for name, warmup in report.arrangements:
        if name == model:
            ready = [start.ready_s for start in report.of(name, warmup)]
            rows.append(Row(name=str(warmup), values=[median(ready)], ranges=[(min(ready), max(ready))]))
    return bar_chart(rows, x_label="seconds", label=f"{model}: seconds from the start of the process until READY")


def _after_a_switch(report: ColdstartReport) -> str:
    series = [
        _series(f"switched to {model}", [each.requests for each in report.switches if each.to == model])
        for model in dict.fromkeys(each.to for each in report.switches)
    ]
    label = "milliseconds of each request after a switch, by its number"
    return "".join(
        line_chart(each, x_label="request after the switch", y_label="milliseconds", label=label)
        # No chart tells more lines apart.
        for each in (series[first : first + LOOKS] for first in range(0, len(series), LOOKS))
    )


def _after_idling(report: ColdstartReport) -> str:
    series = [
        _series(
            f"kept warm every {way:g} s" if way else "nobody asked",
            [each.requests for each in report.idlings if each.keepwarm_s == way],
        )
        for way in dict.fromkeys(each.keepwarm_s for each in report.idlings)
    ]
    label = "milliseconds of each request after idling, by its number"
    return line_chart(series, x_label="request after idling", y_label="milliseconds", label=label)


def _series(name: str, turns: Sequence[Requests]) -> Series:
    """The median over the turns of each request."""
    by_number = zip(*(each.latencies_ms for each in turns), strict=True)
    points = [(float(number), median(latencies_ms)) for number, latencies_ms in enumerate(by_number, start=1)]
    return Series(name=name, points=points, draw=Draw.JOINED)
