"""benchmarks.load.text."""

import csv
import dataclasses

from benchmarks.load.points import ClosedLoop, LoadFailure, Usage
from benchmarks.load.text import goal_line, to_csv, to_text
from tests.unit.benchmarks.load import test_points

POINT = dataclasses.replace(test_points.POINT, windows_images_per_s=(), windows_latency_ms=())
REPORT = dataclasses.replace(
    test_points.REPORT,
    points=tuple(
        dataclasses.replace(each, windows_images_per_s=(), windows_latency_ms=()) for each in test_points.REPORT.points
    ),
)


def text(report=REPORT, *, hand_over=False):
    return to_text(report, batching="batching: 2 images", commands=["serve", "perf_analyzer -m x"], hand_over=hand_over)


def test_every_load_is_a_row_of_both_tables():
    lines = text().splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["20/s", "poisson", "80.0"], ["4", "at", "a"]]
    rows = [line for line in lines if line.startswith("4 at a time")]
    assert rows[0].split()[4:] == ["80.0", "48.0", "60.0", "65.0", "70.0", "0"]
    assert rows[1].split()[4:] == ["10.00", "1.00", "30.00", "0.50", "0.50", "8.00", "90%", "1000"]
    assert "executions by their number of images: 20/s poisson: 10 of 1, 5 of 4; 4 at a time" in text()
    assert "  perf_analyzer -m x" in lines
    assert "ms of an execution by its number of images: 1: 22.00, 4: 60.00" in lines


def test_repetitions_show_the_noise():
    repeated = dataclasses.replace(POINT, windows_images_per_s=(79, 81), windows_latency_ms=(POINT.latency_ms,) * 2)
    lines = text(dataclasses.replace(REPORT, points=[repeated])).splitlines()
    assert lines[0].split()[-4:] == ["±images/s", "±p50", "±p99", "failed"]
    assert "±" not in text()


def test_what_is_not_known_has_no_column():
    points = [dataclasses.replace(point, usage=Usage()) for point in REPORT.points]
    lines = text(dataclasses.replace(REPORT, points=points)).splitlines()
    assert not any("server CPU" in line or "GPU" in line for line in lines)


def test_times_that_are_the_hand_over_alone_are_said_to_be():
    assert "hand-over" in text(hand_over=True)
    assert "hand-over" not in text()


def test_loads_that_failed_or_were_not_kept_up_are_told():
    report = dataclasses.replace(
        REPORT,
        points=[dataclasses.replace(POINT, delayed_share=0.5)],
        failures=[LoadFailure(load=ClosedLoop(concurrency=64), reason="the queue is full")],
    )
    assert "not measured at 64 at a time: the queue is full" in text(report)
    assert "not kept up at 4 at a time: 50% of the requests were sent late" in text(report)


def test_the_goal_is_met_up_to_a_load_or_missed_by_the_least_latency():
    assert goal_line(REPORT, 70, 99) == "goal: p99 within 70 ms: met up to 80.0 images/s, 20/s poisson, with 70.0 ms"
    assert goal_line(REPORT, 47.9, 50) == "goal: p50 within 47.9 ms: MISSED at every load; the least is 48.0 ms"


def test_the_csv_says_what_each_load_was():
    rows = list(csv.DictReader(to_csv(REPORT).splitlines()))
    assert [(row["kind"], row["concurrency"], row["rate_per_s"], row["distribution"]) for row in rows] == [
        ("open", "", "20.0", "poisson"),
        ("closed", "4", "", ""),
    ]
    assert rows[1]["client_send_ms"] == "0.3"
    assert rows[0]["client_send_ms"] == ""
    assert rows[1]["server_memory_bytes"] == str(10**9)
