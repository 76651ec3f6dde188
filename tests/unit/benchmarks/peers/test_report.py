"""What is printed, written and drawn of a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.figures import Spread
from benchmarks.peers.agreement import Agreement
from benchmarks.peers.contestants import REFERENCE
from benchmarks.peers.page import page
from benchmarks.peers.report import PeersReport, Row, Wire
from tests.browser import open_page

SAME = Agreement(matched=20, missed=0, invented=0, largest_shift_px=0.25)
OTHER = Agreement(matched=10, missed=9, invented=1, largest_shift_px=3.0)


def report_row(name: str, time_ratio: float, wire: Wire | None) -> Row:
    return Row(
        name=name,
        arithmetic="FP32",
        agreement=SAME,
        latency_p50_ms=40 * time_ratio,
        latency_p99_ms=50 * time_ratio,
        calls=100,
        time_ratio=Spread(median=time_ratio, lowest=time_ratio - 0.1, highest=time_ratio + 0.1),
        throughput_images_per_s=Spread(median=25 / time_ratio, lowest=20 / time_ratio, highest=26 / time_ratio),
        throughput_ratio=Spread(median=1 / time_ratio, lowest=0.9 / time_ratio, highest=1.1 / time_ratio),
        wire=wire,
        memory_bytes=512_000_000,
    )


@pytest.fixture
def report() -> PeersReport:
    return PeersReport(
        weights="shapes.pt",
        imgsz=(640, 640),
        pictures=("one.jpg", "two.jpg"),
        boxes=20,
        repeats=5,
        callers=4,
        duration_s=3,
        other_cpu_share=0.01,
        rows=(
            report_row(REFERENCE, 1.0, Wire(sent_bytes=1_229_000, received_bytes=7_300)),
            report_row("somebody in process", 1.5, None),
        ),
        disagreeing={"somebody else": OTHER},
        not_run={"a <third>": "not installed"},
        environment={"cores": "2"},
    )


def test_the_table_has_every_figure_and_what_is_left_out_is_told(report: PeersReport) -> None:
    text = report.to_text()
    (ours,) = (line for line in text.splitlines() if line.startswith(REFERENCE))
    cells = ours.removeprefix(REFERENCE).split()
    assert cells[:3] == ["FP32", "40.0", "50.0"]
    assert cells[3:5] == ["1.00", "(0.90-1.10)"]
    assert cells[-4:] == ["1229.0", "7.3", "512", "100.0%"]
    (in_process,) = (line for line in text.splitlines() if line.startswith("somebody in process"))
    assert in_process.split()[-4:-2] == ["-", "-"]
    assert "somebody else: NOT TIMED, other boxes: 50.0% (10 matched, 9 missed, 1 invented" in text
    assert "a <third>: not run: not installed" in text


def test_boxes_that_differ_are_a_failure_and_being_absent_is_none(report: PeersReport) -> None:
    assert not report.all_met
    assert dataclasses.replace(report, disagreeing={}).all_met


def test_json_has_plain_values(report: PeersReport) -> None:
    values = json.loads(json.dumps(report.to_json()))
    assert values["benchmark"] == "peers"
    assert values["rows"][0]["wire"] == {"sent_bytes": 1_229_000, "received_bytes": 7_300}
    assert values["rows"][1]["wire"] is None
    assert values["rows"][0]["agreement"]["share"] == 1
    assert values["not_run"] == {"a <third>": "not installed"}


def test_the_page_shows_its_charts_and_loads_nothing(report: PeersReport, tmp_path: Path) -> None:
    path = tmp_path / "peers.html"
    path.write_text(page(report))
    shown = open_page(path)
    assert shown.flaws() == []
    assert [chart.label for chart in shown.charts] == [
        "Latency of each",
        "Throughput of each",
        "Bytes of each",
        "Memory of each",
    ]
    assert all(chart.marks > 0 and chart.width > 0 for chart in shown.charts)
    assert "a <third>: not run: not installed" in shown.text
    assert "not timed, other boxes: 50.0%" in shown.text
