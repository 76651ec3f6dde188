"""A load report as one page that needs no other file and no network: the verdict first, then what it rests on.

Model names and environments are text, never markup; nothing on the page runs or loads. The same report gives the same
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.charts import Row, Series, amount, bar_chart, column_chart, line_chart, stacked_bars
from benchmarks.load.points import PERCENTILES, ClosedLoop, LoadPoint, LoadReport, OpenLoop
from benchmarks.load.regression import COLUMNS, Comparison
from benchmarks.load.text import HAND_OVER, shortcomings
from builder.page import definitions, document, escaped, figure, row, table

PARTS = ("queue", "input", "compute", "output", "client", "rest")
_WIDE_RANGE = 12
"""Latencies that differ by more than this factor are drawn on a logarithmic axis."""
_MB = 1e6


def page(
    report: LoadReport,
    *,
    batching: str,
    commands: Sequence[str],
    sla_ms: float | None = None,
    percentile: int = 99,
    comparison: Comparison | None = None,
    hand_over: bool = False,
) -> str:
    """The page; ``batching`` is ``batching_line``'s, ``commands`` what measured the points.

    ``hand_over`` says that Triton's times are not those of the model, which answers after its call.
    """
    sections = [
        _verdict(report, batching, sla_ms, percentile, comparison),
        _latencies(report.points, sla_ms, percentile),
        _times(report.points, hand_over),
        _batches(report),
        _usage(report.points),
        _figures(report.points, sla_ms, percentile),
        _compared(comparison) if comparison else "",
        _measured(report.environment, commands),
    ]
    return document(f"Load on {report.model}", sections)


def _verdict(
    report: LoadReport, batching: str, sla_ms: float | None, percentile: int, comparison: Comparison | None
) -> str:
    is_missed = sla_ms is not None and report.best_within(sla_ms, percentile) is None
    lines = [batching]
    lines += [
        f"{point.failed} request{'' if point.failed == 1 else 's'} failed at {point.load}"
        for point in report.points
        if point.failed
    ]
    lines += shortcomings(report)
    lines += [line for line in report.environment.values() if line.startswith("WARNING")]
    is_worse = bool(comparison and comparison.is_worse)
    items = [escaped(line) for line in lines]
    if comparison:
        summary = escaped(comparison.summary())
        items.append(summary.replace("REGRESSION", "<strong>REGRESSION</strong>", 1))
    told = _goal(report, sla_ms, percentile)
    if is_worse and not is_missed:
        # Red would be taken for a goal missed.
        told = told.replace("strong>", "b>")
    listed = "".join(f"<li>{item}</li>" for item in items)
    kind = "failed" if is_missed or is_worse else "passed"
    return f'<section class="verdict {kind}"><p>{told}</p><ul>{listed}</ul></section>'


def _goal(report: LoadReport, sla_ms: float | None, percentile: int) -> str:
    if sla_ms is None:
        most = max(report.points, key=lambda point: point.throughput_images_per_s)
        return f"No goal was stated. Most images/s: {_summary(most)}."
    goal = f"p{percentile} within {amount(sla_ms)} ms"
    best = report.best_within(sla_ms, percentile)
    if best:
        return f"<strong>Goal met.</strong> The highest load with {goal}: {_summary(best)}."
    least = min(report.points, key=lambda point: point.latency_ms.percentile(percentile))
    return f"<strong>Goal missed.</strong> No load has {goal}; the nearest: {_summary(least)}."


def _summary(point: LoadPoint) -> str:
    latencies = point.latency_ms
    return (
        f"{escaped(point.load)}, {amount(point.throughput_images_per_s)} images/s, p50 {amount(latencies.p50)} ms, "
        f"p99 {amount(latencies.p99)} ms"
    )


def _latencies(points: Sequence[LoadPoint], sla_ms: float | None, percentile: int) -> str:
    """A chart for each way to load, since a closed loop slows down with the server and an open one does not."""
    loops = {
        "closed loop": [point for point in points if isinstance(point.load, ClosedLoop)],
        "requests at a constant rate": _open(points, "constant"),
        "requests at random times (Poisson)": _open(points, "poisson"),
    }
    told = (
        "<h2>Throughput against latency</h2><p>From before a request is sent until its answer is there. Rest the "
        "pointer on a mark for its load.</p>"
    )
    return told + "".join(_curve(name, loop, sla_ms, percentile) for name, loop in loops.items() if loop)


def _open(points: Sequence[LoadPoint], distribution: str) -> list[LoadPoint]:
    return [point for point in points if isinstance(point.load, OpenLoop) and point.load.distribution == distribution]


def _curve(name: str, points: Sequence[LoadPoint], sla_ms: float | None, percentile: int) -> str:
    series = [
        Series(
            name=f"p{each}",
            points=[(point.throughput_images_per_s, point.latency_ms.percentile(each)) for point in points],
            notes=[str(point.load) for point in points],
        )
        for each in PERCENTILES
    ]
    heights = [y for each in series for _, y in each.points if y > 0]
    chart = line_chart(
        series,
        x_label="throughput (images/s)",
        y_label="latency (ms)",
        label=f"Latency over throughput, {name}",
        limit=sla_ms,
        limit_label=f"goal: p{percentile} {amount(sla_ms or 0)} ms",
        log_y=bool(heights) and max(heights) > _WIDE_RANGE * min(heights),
    )
    return f"<h3>{name[0].upper()}{name[1:]}</h3>{chart}"


def _times(points: Sequence[LoadPoint], hand_over: bool) -> str:
    rows = []
    for point in points:
        server, client = point.server_ms, point.client_ms
        rows.append(
            Row(
                name=str(point.load),
                values=(
                    server.queue,
                    server.compute_input,
                    server.compute_infer,
                    server.compute_output,
                    client.send + client.receive if client else None,
                    point.other_ms,
                ),
            )
        )
    chart = stacked_bars(rows, PARTS, x_label="ms of a request, the mean", label="Where the time of a request goes")
    told = f"<p><b>Here {escaped(HAND_OVER)}.</b></p>" if hand_over else ""
    return (
        "<h2>Where the time goes</h2><p>Queue: until an instance takes the request. Input, compute and output: in the "
        "model. Client: to write the request and to read the answer. Rest: what is left of the latency, on the way and "
        f"in the server before its queue.</p>{told}{chart}"
    )


def _batches(report: LoadReport) -> str:
    counted = [point for point in report.points if point.batches]
    if not counted:
        return "<h2>Batches</h2><p>Triton counted no execution of this model.</p>"
    largest = max(max(point.batches) for point in counted)
    panels = "".join(_histogram(point, largest) for point in counted)
    services = [(str(size), amount(ms), amount(ms / size)) for size, ms in sorted(report.service_ms.items())]
    told = (
        table(row(("images", "ms an execution", "ms an image"), "th"), [services])
        if services
        else "<p>Triton’s statistics hold no time of executions.</p>"
    )
    return (
        "<h2>Batches</h2><p>Executions by the number of images in them, from Triton’s statistics, as a part of all "
        f'executions of that load.</p><div class="panels">{panels}</div><h3>What an execution takes</h3>{told}'
    )


def _histogram(point: LoadPoint, largest: int) -> str:
    executions = sum(point.batches.values())
    columns = [(str(size), 100 * point.batches.get(size, 0) / executions) for size in range(1, largest + 1)]
    chart = column_chart(
        columns, x_label="images", y_label="% of executions", label=f"Batch sizes at {point.load}", high=100
    )
    return f"<div>{chart}<p><b>{escaped(point.load)}</b>: {point.mean_batch:.2f} in the mean</p></div>"


def _usage(points: Sequence[LoadPoint]) -> str:
    share = _bars(
        points,
        {"CPU": lambda point: _scaled(point.usage.cpu_share, 100), "GPU": _gpu_percent},
        "% of the machine, the mean",
        "Use of CPU and GPU",
    )
    memory = _bars(
        points,
        {
            "server": lambda point: _scaled(point.usage.server_memory_bytes, 1 / _MB),
            "GPU": lambda point: _scaled(point.usage.gpu_memory_bytes, 1 / _MB),
        },
        "MB, the most at a time",
        "Memory",
    )
    if not share and not memory:
        return "<h2>Use of the machine</h2><p>Not known: the server runs elsewhere.</p>"
    return (
        "<h2>Use of the machine</h2><p>By the server’s processes; of a GPU, by whomever: its use is the share of the "
        f"time in which it had work.</p>{share}{memory}"
    )


def _bars(
    points: Sequence[LoadPoint], parts: Mapping[str, Callable[[LoadPoint], float | None]], x_label: str, label: str
) -> str:
    """Those parts of which anything is known; nothing where there are none."""
    known = {name: read for name, read in parts.items() if any(read(point) is not None for point in points)}
    if not known:
        return ""
    rows = [Row(name=str(point.load), values=[read(point) for read in known.values()]) for point in points]
    names = list(known)
    told = label if len(names) > 1 else f"{label}: {names[0]}"
    return f"<h3>{told}</h3>{bar_chart(rows, names, x_label=x_label, label=told)}"


def _gpu_percent(point: LoadPoint) -> float | None:
    return _scaled(point.usage.gpu_utilization, 100)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _figures(points: Sequence[LoadPoint], sla_ms: float | None, percentile: int) -> str:
    def marked(point: LoadPoint, each: int) -> str:
        value = point.latency_ms.percentile(each)
        is_over = sla_ms is not None and each == percentile and value > sla_ms
        return f'<b class="over">{figure(value, 1)}</b>' if is_over else figure(value, 1)

    lines = [
        (
            escaped(point.load),
            figure(point.throughput_images_per_s, 1),
            _range(point.windows_images_per_s),
            *(marked(point, each) for each in PERCENTILES),
            f"{point.mean_batch:.2f}",
            str(point.failed),
        )
        for point in points
    ]
    names = ("load", "images/s", "lowest–highest", *(f"p{each} ms" for each in PERCENTILES), "mean batch", "failed")
    return (
        "<h2>All figures</h2><p>Lowest–highest: the throughput of the repetitions.</p>"
        f"{table(row(names, 'th'), [lines])}"
    )


def _range(values: Sequence[float]) -> str:
    return f"{figure(min(values), 1)}–{figure(max(values), 1)}" if values else "–"


def _compared(comparison: Comparison) -> str:
    lines = [
        (*map(escaped, change.cells()[:-1]), f'<b class="over">{change.verdict}</b>')
        if change.is_regression
        else tuple(map(escaped, change.cells()))
        for change in comparison.changes
    ]
    notes = [f"not compared: {load}" for load in comparison.left_out] + list(comparison.differences)
    items = "".join(f"<li>{escaped(note)}</li>" for note in notes)
    return (
        "<h2>Against the baseline</h2><p>The geometric means of the repetitions. Noise: what the repetitions of both "
        "runs, moderated over all loads, and what changes from start to start explain (Student’s t, Bonferroni).</p>"
        f"{table(row(map(escaped, COLUMNS), 'th'), [lines])}" + (f"<ul>{items}</ul>" if items else "")
    )


def _measured(environment: Mapping[str, str], commands: Sequence[str]) -> str:
    lines = "\n".join(map(escaped, commands))
    shown = f"<h3>Commands</h3><p>What measured each load.</p><pre>{lines}</pre>" if commands else ""
    return f"<h2>Environment</h2>{definitions(environment)}{shown}"
