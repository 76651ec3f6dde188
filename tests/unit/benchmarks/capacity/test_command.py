"""``python -m benchmarks capacity``, whole: the plan in words, as JSON and as a page, its exit codes, and bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.cli import main
from tests.browser import open_page
from tests.published import publish_shapes
from tests.unit.benchmarks.capacity.load_reports import load_report, written

SAMPLE = Path(__file__).parents[4] / "examples" / "shapes" / "shapes.pt"
CAMERAS = ["capacity", "--streams", "64", "--fps", "10", "--sla-ms", "50"]
FEWER_FRAMES = [*CAMERAS, "--frames", "2000"]
SCENARIOS = ["normal", "one GPU lost", "two versions", "daily peak", "normal, if Poisson"]


def test_640_a_second_at_80_a_gpu_take_12_and_the_goal_holds_with_them(tmp_path, capsys):
    json_path, page_path = tmp_path / "plan.json", tmp_path / "plan.html"
    flags = ["--gpu", "t4", "--throughput", "80", "--price", "t4=0.35", "--json", str(json_path)]
    assert main([*CAMERAS, *flags, "--html", str(page_path)]) == 0
    out = capsys.readouterr().out
    assert "t4: ceil(640 / 80 x 1.5) = 12 GPUs, 5.3 streams and 0.53 Gbit/s each; compute binds" in out
    assert "Plan: 12 x t4, up to 6 streams on each, 3,066 a month, 47.91 a stream (by hand)." in out
    told = json.loads(json_path.read_text())
    (t4,) = told["gpus"]
    assert (told["meets"], t4["gpus"], t4["gpus_that_hold"], t4["source"]) == (True, 12, 12, "by hand")
    assert t4["price_per_stream_month"] == pytest.approx(0.35 * 12 * 730 / 64)
    assert list(t4["scenarios"]) == SCENARIOS
    for outcome in (*t4["scenarios"].values(), *t4["daily_profile"]):
        assert outcome["frames"] == outcome["answered"] + outcome["refused"] + outcome["lost"]
    assert all(t4["scenarios"][scenario]["holds"] for scenario in SCENARIOS[:-1])
    assert len(t4["daily_profile"]) == 24
    assert told["command"].startswith("python -m benchmarks capacity --streams 64")
    page = open_page(page_path)
    assert page.flaws() == []
    assert [chart.label for chart in page.charts] == [
        "GPUs of each kind",
        "Latency percentiles of 12 x t4 by scenario",
        "Latency of 12 x t4 over a day",
        "Load of 12 x t4 over a day",
    ]
    assert all(chart.marks > 3 for chart in page.charts)
    assert "Plan: 12 x t4" in page.text


def test_an_estimate_says_that_it_is_one_and_how_far_off_it_was(capsys, tmp_path):
    publish_shapes(tmp_path / "models", tmp_path)
    flags = ["--gpu", "t4,a2", "--model", "shapes", "--repository", str(tmp_path / "models")]
    assert main([*FEWER_FRAMES, *flags]) == 0
    out = capsys.readouterr().out
    assert out.count("ESTIMATE") >= 4
    assert "t4 -10% to +9%" in out
    assert "a100-40gb +8% to +22%" in out
    assert "Plan: 2 x t4" in out
    assert "activations' traffic" not in out


def test_weights_are_made_into_the_graph_that_a_build_would_serve(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    flags = ["--gpu", "t4", "--weights", str(SAMPLE), "--imgsz", "64", "--precision", "fp32"]
    assert main([*FEWER_FRAMES, *flags]) == 2
    assert "error: t4: expected figures to estimate by, but the network is in FP32" in capsys.readouterr().err
    assert main([*FEWER_FRAMES, *flags, "--throughput", "500"]) == 0
    out = capsys.readouterr().out
    # 64 x 64 pixels, and a row for each of the 84 places that the network looks at: 14,304 bytes.
    assert "0.01 MB a frame and its answer" in out
    assert "?" not in out


def test_a_report_is_measured_and_its_kind_is_compared_with_one_by_hand(capsys, tmp_path):
    report = written(load_report({1: 0.004, 8: 0.016}), tmp_path / "load.json")
    assert main([*FEWER_FRAMES, "--gpu", "t4,l4", "--report", str(report), "--throughput", "l4=120"]) == 0
    out = capsys.readouterr().out
    assert f"t4: measured, {report}; run against its points it is off by throughput" in out
    assert "l4: the throughput is by hand" in out
    assert "Plan: 8 x l4" in out


def test_what_a_report_warns_of_is_said_again(capsys, tmp_path):
    noisy = {"other load": "WARNING: other processes used 36% of the CPU", "cores": "2"}
    report = dataclasses.replace(load_report({1: 0.02}, gpu=None), environment=noisy)
    assert main([*FEWER_FRAMES, "--gpu", "cpu", "--report", str(written(report, tmp_path / "load.json"))]) == 0
    out = capsys.readouterr().out
    assert "cpu: other load: WARNING: other processes used 36% of the CPU\n" in out
    assert " servers, " in out


def test_a_goal_that_a_kind_cannot_meet_is_said_of_that_kind(capsys):
    assert main([*FEWER_FRAMES, "--gpu", "t4,l4", "--throughput", "t4=15,l4=120"]) == 0
    out = capsys.readouterr().out
    assert "t4: the goal is not met: a single image on an idle server takes 66.8 ms, the goal is 50 ms" in out
    assert "Plan: 8 x l4" in out
    assert "x t4" not in out


def test_where_no_kind_meets_the_goal_the_exit_code_is_1(capsys, tmp_path):
    path = tmp_path / "plan.html"
    assert main([*CAMERAS, "--gpu", "t4,l4", "--throughput", "15", "--html", str(path)]) == 1
    out = capsys.readouterr().out
    assert "No kind meets the goal of 50 ms in every scenario." in out
    assert out.count("a single image on an idle server takes") == 2
    page = open_page(path)
    assert page.flaws() == []
    assert "No kind meets the goal" in page.text


def test_what_users_ask_for_has_a_plan(capsys, tmp_path):
    # 40 to 64 cameras at 10 frames/s within 30 to 50 ms; 16 HD streams within 80 ms: with a network of YOLOv8s' times.
    t4 = load_report({1: 0.0027, 8: 0.014}, concurrencies=(1, 2, 4, 8, 16))
    report = str(written(t4, tmp_path / "load.json"))
    for streams, fps, sla_ms in ((40, 10, 30), (64, 10, 50), (16, 30, 80)):
        cameras = ["--streams", str(streams), "--fps", str(fps), "--sla-ms", str(sla_ms)]
        assert main(["capacity", *cameras, "--frames", "4000", "--gpu", "t4", "--report", report]) == 0
        assert "Plan: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--gpu", "t5", "--throughput", "80"], "unknown GPU 't5'"),
        (["--gpu", "t4", "--throughput", "80", "--price", "l4=1"], "--price: expected a GPU of --gpu"),
        (["--gpu", "t4"], "t4: expected its load report"),
        (["--gpu", "t4", "--repository", "models"], "--repository models: expected --model NAME with it"),
        (["--gpu", "t4", "--model", "x", "--weights", "y.pt"], "expected --weights or --model of --repository"),
        (["--gpu", "t4", "--weights", "missing.pt"], "missing.pt"),
        (["--gpu", "t4", "--throughput", "80", "--html", "missing/plan.html"], "--html missing/plan.html: expected"),
    ],
)
def test_bad_input_is_one_line(flags, expected, capsys):
    assert main([*CAMERAS, *flags]) in (1, 2)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert error.count("\n") == 1


def test_a_model_that_is_not_there_is_one_line_that_names_those_that_are(tmp_path, capsys):
    (tmp_path / "shapes").mkdir()
    assert main([*CAMERAS, "--gpu", "t4", "--model", "shape", "--repository", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: expected a published model shape in {tmp_path}, found shapes;")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--streams", "0"),
        ("--streams", "1.5"),
        ("--fps", "0"),
        ("--sla-ms", "-1"),
        ("--percentile", "98"),
        ("--redundancy", "0.5"),
        ("--peak", "nan"),
        ("--jitter-ms", "-1"),
        ("--reconnect-s", "soon"),
        ("--bytes-per-frame", "0"),
    ],
)
def test_a_number_out_of_bounds_is_refused(flag, value, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*CAMERAS, "--gpu", "t4", flag, value])
    assert caught.value.code == 2
    assert flag in capsys.readouterr().err


def test_more_streams_than_a_fleet_has_are_refused_with_the_reason(capsys):
    argv = ["capacity", "--streams", "1000000000", "--fps", "10", "--sla-ms", "50", "--gpu", "t4", "--throughput", "80"]
    assert main(argv) == 2
    assert "--streams 1000000000: expected 1,000,000 at most: a plan is of one fleet" in capsys.readouterr().err
