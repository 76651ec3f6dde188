"""The figures as one page that needs no other file."""

from __future__ import annotations

from benchmarks import charts
from benchmarks.machine import other_load_text
from benchmarks.peers.report import PeersReport
from builder.page import document, escaped, row, table


def page(report: PeersReport) -> str:
    """HTML."""
    rows = report.rows
    latency = [charts.Row(name=each.name, values=(each.latency_p50_ms, each.latency_p99_ms)) for each in rows]
    throughput = [
        charts.Row(
            name=each.name,
            values=(each.throughput_images_per_s.median,),
            ranges=((each.throughput_images_per_s.lowest, each.throughput_images_per_s.highest),),
        )
        for each in rows
    ]
    wire = [
        charts.Row(name=each.name, values=(each.wire.sent_bytes / 1e3, each.wire.received_bytes / 1e3))
        for each in rows
        if each.wire
    ]
    memory = [charts.Row(name=each.name, values=(each.memory_bytes / 1e6,)) for each in rows]
    callers = f"images per second, {report.callers} callers"
    sections = [
        *(f"<p>{escaped(note)}</p>" for note in (*report.notes, other_load_text(report.other_cpu_share))),
        table(row(map(escaped, report.header), "th"), [[list(map(escaped, each.cells())) for each in rows]]),
        "<h2>From a file to boxes</h2>",
        charts.bar_chart(latency, ("p50", "p99"), x_label="ms, one caller", label="Latency of each"),
        "<h2>Throughput</h2><p>Median of the turns, with the lowest and the highest.</p>",
        charts.bar_chart(throughput, x_label=callers, label="Throughput of each"),
        "<h2>On the wire</h2>",
        charts.stacked_bars(wire, ("sent", "received"), x_label="kB per picture", label="Bytes of each"),
        "<h2>Memory</h2><p>Of server and client together, after the last turn.</p>",
        charts.bar_chart(memory, x_label="MB", label="Memory of each"),
        *_left_out(report),
        "<h2>Where it was measured</h2>",
        "<dl>"
        + "".join(f"<dt>{escaped(k)}</dt><dd>{escaped(v)}</dd>" for k, v in report.environment.items())
        + "</dl>",
    ]
    return document(f"{report.weights} beside its peers", sections)


def _left_out(report: PeersReport) -> list[str]:
    reasons = [f"{name}: not timed, other boxes: {found}" for name, found in report.disagreeing.items()]
    reasons += [f"{name}: not run: {reason}" for name, reason in report.not_run.items()]
    if not reasons:
        return []
    return ["<h2>Left out</h2><ul>" + "".join(f"<li>{escaped(each)}</li>" for each in reasons) + "</ul>"]
