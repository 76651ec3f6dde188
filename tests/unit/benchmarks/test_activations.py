"""The estimate of activations against onnxruntime, on a graph of the sample's size, and the report of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.activations import ActivationsReport, Row
from benchmarks.cli import main
from benchmarks.run_memory import ALIVE, BLOCK, run_memory_bytes
from builder.artifacts import Precision
from builder.errors import BuilderError
from builder.graph_cost import graph_cost
from builder.spec import BuildSpec
from builder.stages import Stages

SAMPLE = Path(__file__).parents[3] / "examples" / "shapes" / "shapes.pt"


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """The sample's served graph in FP32 at 640 px."""
    asked = {"weights": SAMPLE, "precision": "fp32", "imgsz": 640, "cache": tmp_path_factory.mktemp("cache")}
    stages = Stages(spec=BuildSpec.from_sources(asked, None), weights=SAMPLE, report=lambda _: None)
    return stages.served(stages.network()).path


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset a process's peak memory")
@pytest.mark.parametrize("batch", [1, 4])
def test_what_is_alive_at_one_time_is_what_onnxruntime_takes_without_its_arena(graph, batch):
    estimate = graph_cost(graph).live_activation_bytes(batch)
    assert estimate == pytest.approx(run_memory_bytes(graph, batch, ALIVE), rel=0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset a process's peak memory")
@pytest.mark.parametrize("batch", [1, 4])
def test_the_block_is_within_25_percent_of_onnxruntimes(graph, batch):
    estimate = graph_cost(graph).activation_bytes(batch)
    assert estimate == pytest.approx(run_memory_bytes(graph, batch, BLOCK), rel=0.25)


def test_a_graph_that_cannot_run_is_an_error(tmp_path, capfd):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(BuilderError, match=r"expected model\.onnx to run at batch 2"):
        run_memory_bytes(path, 2, ALIVE)
    assert "model.onnx" in capfd.readouterr().err


def test_a_network_that_ultralytics_does_not_have_is_one_line(capsys):
    assert main(["activations", "--families", "yolov8q"]) == 2
    assert capsys.readouterr().err.startswith("error: --families yolov8q: expected one of Ultralytics' networks")


def row(**changes):
    given = {
        "family": "yolov8n",
        "precision": Precision.FP32,
        "batch": 8,
        "what": "onnxruntime, block",
        "estimated_bytes": 80_000_000,
        "measured_bytes": 100_000_000,
        "target": True,
    }
    return Row(**given | changes)


def report(*rows):
    return ActivationsReport(rows=rows, environment={"CPU": "one"})


def test_an_estimate_within_a_quarter_of_the_measured_is_met():
    assert row().off == pytest.approx(-0.2)
    assert row(estimated_bytes=75_000_000).met
    assert not row(estimated_bytes=74_000_000).met
    assert row(estimated_bytes=125_000_000).met
    assert not row(estimated_bytes=126_000_000).met


def test_a_row_without_a_target_is_shown_and_not_judged():
    far = row(estimated_bytes=1, target=False)
    assert report(row(), far).all_met
    assert "-100.0%" in report(row(), far).to_text()


def test_one_row_too_far_off_is_told_and_fails_the_report():
    made = report(row(), row(estimated_bytes=10_000_000))
    assert not made.all_met
    assert "furthest off of those with a target: 90.0%; target 25%: NOT MET" in made.to_text()
    assert [each["met"] for each in json.loads(json.dumps(made.to_json()))["rows"]] == [True, False]


def test_a_batch_of_none_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["activations", "--batches", "0"])
    assert caught.value.code == 2
    assert "--batches" in capsys.readouterr().err


@pytest.mark.parametrize(("estimated", "code"), [(80_000_000, 0), (10_000_000, 1)])
def test_the_exit_code_is_1_where_an_estimate_is_too_far_off(monkeypatch, capsys, estimated, code):
    made = report(row(estimated_bytes=estimated))
    monkeypatch.setattr("benchmarks.activations.measure_activations", lambda *_: made)
    assert main(["activations"]) == code
    assert "yolov8n fp32, onnxruntime, block" in capsys.readouterr().out
