"""The page of a load run: its verdict, that it needs nothing besides, and how a browser shows it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarks.load.page import page
from benchmarks.load.points import (
    ClientTimes,
    ClosedLoop,
    Latencies,
    LoadFailure,
    LoadPoint,
    LoadReport,
    OpenLoop,
    ServerTimes,
    Usage,
)
from benchmarks.load.regression import compare
from benchmarks.machine import other_load_text
from tests.browser import open_page

HOSTILE = "<script>alert('&1')</script>"
BATCHING = "batching: 3.40 images an execution at 16 at a time, of 8 at most"
COMMANDS = ("perf_analyzer -m detector --concurrency-range 1", "perf_analyzer -m detector --concurrency-range 16")


def point(load, *, images_per_s: float, ms: float, slower: float = 1.0, failed: int = 0) -> LoadPoint:
    def latencies(factor: float) -> Latencies:
        scale = ms * slower * factor
        return Latencies(mean=scale, p50=0.95 * scale, p90=1.2 * scale, p95=1.3 * scale, p99=1.6 * scale)

    return LoadPoint(
        load=load,
        throughput_images_per_s=images_per_s / slower,
        latency_ms=latencies(1.0),
        server_ms=ServerTimes(queue=0.4 * ms, compute_input=0.1, compute_infer=0.5 * ms, compute_output=0.05),
        client_ms=ClientTimes(send=0.2, receive=0.1),
        batches={1: 10, 2: 20, 4: 60, 8: 5},
        failed=failed,
        windows_images_per_s=tuple(images_per_s / slower * factor for factor in (0.99, 1.0, 1.01)),
        windows_latency_ms=tuple(map(latencies, (1.01, 1.0, 0.99))),
        usage=Usage(cpu_share=0.8, server_memory_bytes=730_000_000),
    )


def report(*, slower: float = 1.0, failed: int = 0) -> LoadReport:
    closed = [
        point(ClosedLoop(concurrency=count), images_per_s=rate, ms=ms, slower=slower, failed=failed)
        for count, rate, ms in ((1, 32, 31), (2, 40, 50), (4, 44, 90), (8, 46, 170), (16, 46.5, 340))
    ]
    opened = [
        point(OpenLoop(rate_per_s=rate, distribution="poisson"), images_per_s=rate, ms=ms, slower=slower)
        for rate, ms in ((10, 33), (20, 39), (30, 60), (40, 180))
    ]
    return LoadReport(
        model="detector",
        gpu=None,
        points=(*closed, *opened),
        service_ms={1: 24.0, 2: 44.0, 4: 86.0, 8: 170.0},
        environment={"CPU": "one", "cores": "2", "note": HOSTILE, "command": "python -m benchmarks load"},
    )


def written(what: LoadReport | None = None, **options) -> str:
    options = {"batching": BATCHING, "commands": COMMANDS, **options}
    return page(what or report(), **options)


def verdict(text: str) -> str:
    (section,) = re.findall(r'<section class="verdict .*?</section>', text, re.S)
    return re.sub(r"<[^>]+>", " ", section)


def test_a_goal_that_is_met_names_the_highest_load():
    text = written(sla_ms=100, percentile=99)
    assert 'class="verdict passed"' in text
    assert "Goal met.  The highest load with p99 within 100 ms: 2 at a time, 40 images/s" in verdict(text)


def test_a_goal_that_is_missed_names_the_nearest():
    text = written(sla_ms=30, percentile=95)
    assert 'class="verdict failed"' in text
    assert "No load has p95 within 30 ms; the nearest: 1 at a time" in verdict(text)
    assert 'class="over">40.3</b>' in text


def test_without_a_goal_the_most_is_named():
    assert "No goal was stated. Most images/s: 16 at a time, 46.5 images/s" in verdict(written())


def test_batching_failures_and_regressions_stand_on_top():
    new = report(slower=1.3, failed=2)
    text = written(new, comparison=compare(report(), new))
    told = verdict(text)
    assert BATCHING in told
    assert "2 requests failed at 8 at a time" in told
    assert "REGRESSION : requests fail now at 1 at a time" in told
    assert 'class="verdict failed"' in text
    assert 'class="over">WORSE</b>' in text


def test_loads_that_were_not_measured_stand_on_top():
    what = report()
    late = replace(what.points[-1], delayed_share=0.4)
    failed = LoadFailure(load=ClosedLoop(concurrency=64), reason="Exceeds maximum queue size")
    told = verdict(written(replace(what, points=(*what.points[:-1], late), failures=(failed,))))
    assert "not measured at 64 at a time: Exceeds maximum queue size" in told
    assert "not kept up at 40/s poisson: 40% of the requests were sent late" in told


def test_a_machine_that_was_not_quiet_is_warned_of_on_top():
    text = other_load_text(0.36)
    assert text in verdict(written(replace(report(), environment={"other load": text})))


def test_times_that_are_not_the_models_are_said_to_be():
    assert "hand-over" not in written()
    assert "Here input, compute and output are the hand-over" in written(hand_over=True)


def test_text_from_elsewhere_is_no_markup():
    text = written(replace(report(), model=HOSTILE), commands=(HOSTILE,))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 4


def test_equal_reports_give_equal_bytes():
    assert written() == written()


def test_a_server_elsewhere_leaves_out_what_is_not_known():
    what = report()
    bare = replace(
        what,
        points=tuple(replace(p, usage=Usage(), client_ms=None, batches={}) for p in what.points),
        service_ms={},
    )
    text = written(bare)
    assert "Not known: the server runs elsewhere." in text
    assert "Triton counted no execution of this model." in text


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_a_browser_shows_every_chart(tmp_path, width, dark):
    new = report(slower=1.3)
    path = tmp_path / "load.html"
    path.write_text(written(new, sla_ms=100, comparison=compare(report(), new)))
    shown = open_page(path, width=width, dark=dark)
    assert shown.flaws() == []
    assert shown.title == "Load on detector"
    assert [chart.label for chart in shown.charts] == [
        "Latency over throughput, closed loop",
        "Latency over throughput, requests at random times (Poisson)",
        "Where the time of a request goes",
        *(f"Batch sizes at {each.load}" for each in new.points),
        "Use of CPU and GPU: CPU",
        "Memory: server",
    ]
    closed, opened, times, *histograms = shown.charts
    # A grid, a limit, four lines, and a mark for each load on each.
    assert (closed.marks, opened.marks) == (2 + 4 + 4 * 5, 2 + 4 + 4 * 4)
    assert "goal: p99 100 ms" in closed.texts
    assert times.marks >= 6 * len(new.points)
    assert all(chart.marks >= 5 for chart in histograms)
