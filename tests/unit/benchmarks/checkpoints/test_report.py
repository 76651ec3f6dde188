"""What is said of the cost of saving."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.checkpoints.report import CheckpointReport, Manner, Row
from benchmarks.figures import Spread


def row(manner: Manner, step_ms: float, more: float) -> Row:
    def same(value: float) -> Spread:
        return Spread.of([value])

    return Row(
        manner=manner,
        step_ms=same(step_ms),
        more=same(more),
        cost_ms=same(60.0),
        cost_share=same(more),
        copy_ms=same(3.0),
        write_ms=same(120.0),
        write_cpu_ms=same(90.0),
    )


@pytest.fixture
def report() -> CheckpointReport:
    return CheckpointReport(
        model="yolo11n.yaml",
        batch=4,
        imgsz=320,
        every=20,
        repeats=4,
        checkpoint_bytes=42_000_000,
        rows=(row(Manner.NONE, 300.0, 0.0), row(Manner.THREAD, 303.0, 0.01), row(Manner.IN_LINE, 310.0, 0.033)),
        late=0,
        other_cpu_share=0.0,
        environment={"cores": "2"},
    )


def test_target_is_met_below_two_percent(report: CheckpointReport) -> None:
    assert report.all_met
    assert "a checkpoint each 20 steps (6.1 s) by the thread: 1.00% of the time, expected below 2%: met" in (
        report.to_text()
    )


def test_target_is_missed_by_cost_and_by_checkpoints_that_are_late(report: CheckpointReport) -> None:
    dear = replace(report, rows=(report.rows[0], row(Manner.THREAD, 306.0, 0.02), report.rows[2]))
    assert not dear.all_met
    assert "MISSED" in dear.to_text()
    late = replace(report, late=1)
    assert not late.all_met
    assert "1 checkpoint(s) were not written when the next was due" in late.to_text()


def test_every_figure_is_in_the_json(report: CheckpointReport) -> None:
    values = json.loads(json.dumps(report.to_json()))
    assert [each["manner"] for each in values["rows"]] == ["none", "thread", "in_line"]
    assert values["rows"][2]["write_ms"]["median"] == 120.0
    assert values["all_met"] is True


def test_a_run_measures_each_manner(tmp_path: Path) -> None:
    model = tmp_path / "tiny.yaml"
    model.write_text(
        "nc: 5\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\n  - [-1, 1, Conv, [8, 3, 2]]\n"
        "  - [-1, 1, Conv, [8, 3, 2]]\nhead:\n  - [[2], 1, Detect, [nc]]\n"
    )
    arguments = ["--model", str(model), "--imgsz", "64", "--batch", "2", "--every", "2", "--repeats", "1"]
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks", "checkpoints", *arguments, "--json", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    values = json.loads(path.read_text())
    assert all(each["step_ms"]["median"] > 0 for each in values["rows"])
    assert values["checkpoint_bytes"] > 10_000
    assert "cost share" in ran.stdout
