"""A load report as plain text and as CSV: what is printed is what a report quotes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields

from benchmarks.load.points import PERCENTILES, ClosedLoop, Latencies, LoadPoint, LoadReport, ServerTimes, Usage
from benchmarks.load.regression import bound_text, noise_of
from benchmarks.tables import key_values, table

_MB = 1e6
HAND_OVER = (
    "input, compute and output are the hand-over to the model's process alone, which answers after its call: the "
    "images' time is in the rest"
)


def to_text(report: LoadReport, *, batching: str, commands: Sequence[str], hand_over: bool) -> str:
    """Two tables, what they do not show, and the environment."""
    lines = [_latencies(report), "", _times(report.points)]
    if hand_over:
        lines.append(HAND_OVER)
    lines += ["", f"executions by their number of images: {_histograms(report.points)}", batching]
    if report.service_ms:
        services = ", ".join(f"{size}: {ms:.2f}" for size, ms in sorted(report.service_ms.items()))
        lines.append(f"ms of an execution by its number of images: {services}")
    lines += shortcomings(report)
    lines += ["", "by hand:", *(f"  {command}" for command in commands), "", key_values(report.environment)]
    return "\n".join(lines)


def shortcomings(report: LoadReport) -> list[str]:
    """A line for each load that could not be measured, or was not the one that was asked for."""
    lines = [f"not measured at {each.load}: {each.reason}" for each in report.failures]
    return lines + [
        f"not kept up at {point.load}: {point.delayed_share:.0%} of the requests were sent late, a wait that is in no "
        "latency"
        for point in report.points
        if not point.kept_up
    ]


def goal_line(report: LoadReport, sla_ms: float, percentile: int) -> str:
    """The highest load that meets a goal, or that none does."""
    goal = f"p{percentile} within {sla_ms:g} ms"
    best = report.best_within(sla_ms, percentile)
    if best is None:
        least = min(point.latency_ms.percentile(percentile) for point in report.points)
        return f"goal: {goal}: MISSED at every load; the least is {least:.1f} ms"
    return (
        f"goal: {goal}: met up to {best.throughput_images_per_s:.1f} images/s, {best.load}, with "
        f"{best.latency_ms.percentile(percentile):.1f} ms"
    )


def to_csv(report: LoadReport) -> str:
    """A line for each load; units are in the names."""
    rows = [_csv_row(point) for point in report.points]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_row(point: LoadPoint) -> dict[str, object]:
    load, client = point.load, point.client_ms
    return {
        "kind": "closed" if isinstance(load, ClosedLoop) else "open",
        "concurrency": load.concurrency if isinstance(load, ClosedLoop) else None,
        "rate_per_s": None if isinstance(load, ClosedLoop) else load.rate_per_s,
        "distribution": None if isinstance(load, ClosedLoop) else load.distribution,
        "throughput_images_per_s": point.throughput_images_per_s,
        **{f"latency_{each.name}_ms": getattr(point.latency_ms, each.name) for each in fields(Latencies)},
        **{f"{each.name}_ms": getattr(point.server_ms, each.name) for each in fields(ServerTimes)},
        "client_send_ms": client.send if client else None,
        "client_receive_ms": client.receive if client else None,
        "rest_ms": point.other_ms,
        "mean_batch": point.mean_batch,
        "failed": point.failed,
        "delayed_share": point.delayed_share,
        **asdict(point.usage),
    }


def _latencies(report: LoadReport) -> str:
    noise = noise_of(report)
    names = [f"±{figure.removesuffix(' ms')}" for figure in noise]
    rows = [
        (
            str(point.load),
            f"{point.throughput_images_per_s:.1f}",
            *(f"{point.latency_ms.percentile(each):.1f}" for each in PERCENTILES),
            *(bound_text(noise[figure][str(point.load)]) for figure in noise),
            str(point.failed),
        )
        for point in report.points
    ]
    told = table(("", "images/s", *(f"p{each} ms" for each in PERCENTILES), *names, "failed"), rows)
    if noise:
        told += "\n±: two runs like this one differ by less, 95 % of the time in all figures together"
    return told


def _times(points: Sequence[LoadPoint]) -> str:
    """Of the mean request, and of the machine."""
    header = ("ms of the mean request", "queue", "input", "compute", "output", "client", "rest")
    rows = [
        (
            str(point.load),
            *(f"{getattr(point.server_ms, each.name):.2f}" for each in fields(ServerTimes)),
            f"{point.client_ms.send + point.client_ms.receive:.2f}" if point.client_ms else "-",
            f"{point.other_ms:.2f}",
            *_usage(point.usage),
        )
        for point in points
    ]
    names = ("server CPU", "server MB", "GPU", "GPU MB")
    known = [column for column in range(len(names)) if any(row[len(header) + column] != "-" for row in rows)]
    return table(
        (*header, *(names[column] for column in known)),
        [(*row[: len(header)], *(row[len(header) + column] for column in known)) for row in rows],
    )


def _usage(usage: Usage) -> tuple[str, str, str, str]:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.0%}"

    def megabytes(value: int | None) -> str:
        return "-" if value is None else f"{value / _MB:.0f}"

    return (
        share(usage.cpu_share),
        megabytes(usage.server_memory_bytes),
        share(usage.gpu_utilization),
        megabytes(usage.gpu_memory_bytes),
    )


def _histograms(points: Sequence[LoadPoint]) -> str:
    return "; ".join(
        f"{point.load}: " + (", ".join(f"{count} of {size}" for size, count in sorted(point.batches.items())) or "none")
        for point in points
    )
