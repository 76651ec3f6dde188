"""``python -m benchmarks tune`` against a real tritonserver, on a model that answers in no time."""

import dataclasses
import json

import pytest

from benchmarks.cli import main
from benchmarks.perf_analyzer import find_perf_analyzer
from benchmarks.tune.config_file import read_config, settings_in, with_settings
from benchmarks.tune.space import Trial
from benchmarks.tune.surface import TrialFailedError
from benchmarks.tune.triton_surface import Timing, serving
from builder.errors import SpecError
from builder.serving import ServingSettings
from tests.browser import open_page
from tests.tiny_model import write_tiny_model

SHORT = ["--window-s", "1", "--warm-up-s", "0.2"]


@pytest.fixture(scope="module")
def perf_analyzer():
    try:
        return find_perf_analyzer()
    except SpecError as error:
        pytest.skip(str(error))


@pytest.fixture
def repository(tmp_path, perf_analyzer):
    return write_tiny_model(tmp_path / "models")


def test_the_winner_replaces_the_configuration_and_nothing_else_of_it(repository, tmp_path, capsys):
    path = repository / "tiny" / "configs" / "cpu.pbtxt"
    before, others = read_config(path), (repository / "tiny" / "config.pbtxt").read_text()
    argv = ["tune", "--repository", str(repository), "--model", "tiny", "--config-name", "cpu", *SHORT]
    argv += ["--sla-ms", "400", "--max-measurements", "5", "--max-batch", "2", "--delays-ms", "0", "2"]
    assert main([*argv, "--json", str(tmp_path / "tune.json"), "--html", str(tmp_path / "tune.html")]) == 0

    value = json.loads((tmp_path / "tune.json").read_text())
    winner = value["winner"]["trial"]
    assert len(value["steps"]) == value["measurements"]["used"] <= 5
    assert value["winner"]["measured"]["latency_ms"]["p99"] <= 400
    assert value["written"] == str(path)
    for step in value["steps"]:
        measured, trial = step["measured"], step["trial"]
        assert measured["load"] == {"kind": "closed", "concurrency": trial["clients"]}
        # Each was really loaded with its batch: Triton's own count says so.
        assert 1 <= max(map(int, measured["batches"])) <= trial["max_batch"]
    after = read_config(path)
    assert settings_in(after) == ServingSettings(
        max_batch=winner["max_batch"],
        instances=winner["instances"],
        max_queue_delay_us=winner["max_queue_delay_us"],
        max_queue_size=value["max_queue_size"],
        queue_timeout_ms=0,
    )
    assert with_settings(after, dataclasses.replace(settings_in(before), max_queue_size=8)) == with_settings(
        before, dataclasses.replace(settings_in(before), max_queue_size=8)
    )
    assert (repository / "tiny" / "config.pbtxt").read_text() == others
    assert f"written: {path}" in capsys.readouterr().out
    shown = open_page(tmp_path / "tune.html")
    assert shown.console == ()
    assert {chart.label for chart in shown.charts} >= {
        "Throughput and p99 of what was measured",
        "Service time by batch",
    }

    # What was written is served, and a grid says how good it is.
    grid = ["--delays-ms", "0", "--max-batch", "2", "--max-instances", "1", "--clients", "2"]
    kept = tmp_path / "grid.jsonl"
    argv = ["tune", "--repository", str(repository), "--model", "tiny", *SHORT, *grid]
    assert main([*argv, "--grid", str(kept), "--json", str(tmp_path / "grid.json")]) == 0
    lines = kept.read_text().splitlines()
    assert {(row["trial"]["max_batch"], row["trial"]["clients"]) for row in map(json.loads, lines)} == {(1, 2), (2, 2)}
    assert json.loads((tmp_path / "grid.json").read_text())["share"] is None
    # A later run measures what is missing.
    kept.write_text(lines[0] + "\n")
    assert main([*argv, "--grid", str(kept)]) == 0
    assert kept.read_text().splitlines()[0] == lines[0]
    assert len(kept.read_text().splitlines()) == 2


def test_a_limit_that_nothing_meets_changes_nothing_and_exits_with_1(repository, capsys):
    path = repository / "tiny" / "configs" / "cpu.pbtxt"
    before = path.read_text()
    argv = ["tune", "--repository", str(repository), "--model", "tiny", "--sla-ms", "0.001", *SHORT]
    assert main([*argv, "--max-measurements", "4", "--max-batch", "2", "--max-instances", "1"]) == 1
    assert "MISSED: no configuration was found with p99 within 0.001 ms" in capsys.readouterr().out
    assert path.read_text() == before
    assert [each.name for each in path.parent.iterdir()] == ["cpu.pbtxt"]


def test_a_configuration_that_does_not_load_is_told_from_a_server_that_is_gone(repository, perf_analyzer):
    config = read_config(repository / "tiny" / "configs" / "cpu.pbtxt")
    broken = with_settings(config, settings_in(config))
    broken.parameters["inference_threads"].string_value = "none"
    trial = Trial(settings=ServingSettings(max_batch=2, instances=1, max_queue_size=0), clients=1)
    with serving(repository, "cpu", broken, perf_analyzer, Timing(window_s=1.0, warm_up_s=0.1)) as surface:
        with pytest.raises(TrialFailedError, match=r"does not load.*inference_threads"):
            surface.measure(trial)
        surface.config = config
        point = surface.measure(trial)
    assert point.throughput_images_per_s > 0
    assert point.latency_ms.p50 <= point.latency_ms.p99
