"""What is said of measured and of predicted workers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.figures import Spread
from benchmarks.scaling.links import PRESETS, measured_link
from benchmarks.scaling.page import _stacked, page
from benchmarks.scaling.prediction import Workload, predict
from benchmarks.scaling.report import Check, Kind, Measured, ScalingReport
from tests.browser import open_page

WORKLOAD = Workload(step_s={4: 0.2, 2: 0.11}, backward_share=0.5, gradient_bytes=10_000_000, small_exchanges=161)


def spread(value: float) -> Spread:
    return Spread(median=value, lowest=0.9 * value, highest=1.1 * value)


def measured(kind: Kind) -> Measured:
    alone = 0.2 if kind is Kind.WEAK else 0.11
    return Measured(
        kind=kind,
        workers=2,
        images=4 if kind is Kind.WEAK else 2,
        alone_s=spread(alone),
        apart_s=spread(alone + 0.02),
        statistics_s=spread(alone + 0.05),
        step_s=spread(alone + 0.06),
        efficiency=spread(0.77),
        communication=spread(0.15),
        all_reduce_s=spread(0.02),
        hidden=spread(0.5),
    )


@pytest.fixture
def report() -> ScalingReport:
    rows = tuple(measured(kind) for kind in Kind)
    link = measured_link("here, 2 workers", 2, small_s=2e-4, large_s=0.02, large_bytes=10_000_000)
    return ScalingReport(
        start="shapes.pt",
        imgsz=160,
        batch=4,
        precision="fp32",
        device="CPU workers by gloo",
        threads=1,
        steps=3,
        repeats=5,
        workload=WORKLOAD,
        one={4: spread(0.2), 2: spread(0.11)},
        measured=rows,
        checks=tuple(Check(measured=each, predicted=predict(WORKLOAD, link, 2, each.images)) for each in rows),
        predicted=tuple(predict(WORKLOAD, each, n, 4) for each in PRESETS.values() for n in (8, 64)),
        predicted_strong=(predict(WORKLOAD, PRESETS["25gbe"], 4, 1),),
        other_cpu_share=0.0,
        environment={"cores": "2"},
    )


def test_text_tells_measured_from_predicted(report: ScalingReport) -> None:
    text = report.to_text()
    measured_part, check, predicted_part = (
        text.index("MEASURED"),
        text.index("PREDICTED against"),
        text.index("PREDICTED, not"),
    )
    assert measured_part < text.index("2 x 4, the same batch for each") < check
    assert "260.0 (234.0-286.0)" in text[measured_part:check]
    # 200 ms alone, 161 small exchanges of 200 us and 20 ms of gradients, against 260 ms.
    assert "252.2        260.0  -3.0%" in text[check:predicted_part]
    assert "64 x 4" in text[predicted_part:]
    assert "64 x 4" not in text[:predicted_part]


def test_formula_that_misses_what_was_measured_is_doubted_aloud(report: ScalingReport) -> None:
    assert report.doubts() == ()
    slow = replace(report.measured[0], step_s=spread(0.6))
    missed = replace(report, checks=(Check(measured=slow, predicted=report.checks[0].predicted),))
    assert "WARNING: the formula misses what was measured by up to -" in missed.to_text()
    assert "the formula misses" in page(missed)


def test_json_marks_what_was_not_measured(report: ScalingReport) -> None:
    values = json.loads(json.dumps(report.to_json()))
    assert [each["kind"] for each in values["measured"]] == ["weak", "strong"]
    assert all(each["measured"] is False for each in values["predicted"] + values["predicted_strong"])
    assert values["checks"][0]["error"] == pytest.approx(0.2522 / 0.26 - 1)
    assert values["measured"][0]["images_per_s"] == pytest.approx(8 / 0.26)


def test_hidden_share_that_noise_covers_is_not_told(report: ScalingReport) -> None:
    noisy = replace(report, measured=tuple(replace(each, hidden=None) for each in report.measured))
    assert "not told: the turns differ by more than the all-reduce takes" in noisy.to_text()
    assert "not told" not in report.to_text()


@pytest.mark.parametrize("dark", [False, True])
def test_page_has_its_charts(report: ScalingReport, tmp_path: Path, dark: bool) -> None:
    path = tmp_path / "scaling.html"
    path.write_text(page(report))
    shown = open_page(path, dark=dark)
    assert [chart.label for chart in shown.charts] == [
        "What a step is made of",
        "Efficiency",
        "Predicted efficiency with the same batch for each worker",
    ]
    assert all(chart.marks for chart in shown.charts)
    assert shown.flaws() == []
    assert "Predicted, not measured" in shown.text


@pytest.mark.parametrize("parts", [(200.0, 20.0, 30.0, 10.0), (181.0, 118.0, 391.0, -108.0), (200.0, -30.0, 5.0, 9.0)])
def test_bars_add_up_to_the_step_where_noise_has_made_a_part_negative(parts: tuple[float, ...]) -> None:
    stacked = _stacked(parts)
    assert sum(stacked) == pytest.approx(sum(parts))
    assert all(part >= 0 for part in stacked)
    if min(parts) > 0:
        assert stacked == pytest.approx(parts)


def test_page_of_one_gpu_is_measured_alone_and_predicted(report: ScalingReport) -> None:
    text = page(replace(report, measured=(), checks=()))
    assert "Predicted efficiency" in text
    assert "The formula against" not in text
    assert "PREDICTED against" not in replace(report, measured=(), checks=()).to_text()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--model", "yolo11n.yaml", "--weights", "x.pt"), "one of them"),
        ((), "expected what to train"),
        (("--model", "yolo11n.yaml", "--batch", "3"), "--batch 3: expected a multiple of 2"),
        (("--model", "yolo11n.yaml", "--devices", "cpu,0"), "expected cpu, cpu,cpu or different GPUs"),
        (("--model", "yolo11n.yaml", "--link", "10GbE"), "expected one of nvlink"),
        (("--model", "yolo11n.yaml", "--html", "/nowhere/a.html"), "expected the folder /nowhere"),
        (("--model", "yolo11n.yaml"), "expected a data.yaml"),
    ],
)
def test_wrong_request_is_told_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: tuple[str, ...], told: str
) -> None:
    assert main(["scaling", "--data", str(tmp_path / "data.yaml"), *more]) == 2
    assert told in capsys.readouterr().err
