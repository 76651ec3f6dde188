"""Arguments that cannot be are refused before anything is started."""

import json

import pytest

from benchmarks.cli import main
from benchmarks.tune.grid import grid_trials, read_winner
from benchmarks.tune.run import TuneOptions, searched
from benchmarks.tune.space import Space
from builder.errors import SpecError
from builder.serving import ServingSettings

CONFIG = """
name: "detector"
backend: "{backend}"
max_batch_size: 8
input [{{ name: "images" data_type: TYPE_UINT8 dims: [64, 64, 3] }}]
output [{{ name: "detections" data_type: TYPE_FP32 dims: [300, 6] }}]
instance_group [{{ count: 2 kind: KIND_GPU }}]
dynamic_batching {{ default_queue_policy {{ default_timeout_microseconds: 5000 max_queue_size: 16 }} }}
"""
SPACE = Space(base=ServingSettings(), batches=(1, 2), instances=(1, 2), delays_us=(0, 1000))


def write(repository, backend="tensorrt"):
    (repository / "detector" / "configs").mkdir(parents=True)
    for path in ("config.pbtxt", "configs/t4.pbtxt"):
        (repository / "detector" / path).write_text(CONFIG.format(backend=backend))
    return repository


def options(repository, **changed):
    given = {
        "repository": repository, "model": "detector", "config_name": "t4", "write_as": "t4", "sla_ms": None,
        "percentile": 99, "max_measurements": 15, "max_batch": None, "max_instances": None, "delays_us": (0, 500),
        "window_s": 1.0, "warm_up_s": 1.0, "perf_analyzer": None,
    }  # fmt: skip
    return TuneOptions(**{**given, **changed})


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--max-measurements", "3"], "expected 4 or more"),
        (["--sla-ms", "0"], "above 0"),
        (["--delays-ms", "-1"], "from 0"),
        (["--percentile", "98"], "invalid choice"),
    ],
)
def test_arguments_that_cannot_be_are_refused(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["tune", "--model", "detector", *argv])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--json", "nowhere/tune.json"], "expected the folder nowhere"),
        (["--html", "nowhere/tune.html"], "expected the folder nowhere"),
        (["--against", "tune.json"], "name its file with --grid"),
        (["--write-as", "../t4"], "--write-as"),
        (["--config-name", "l4"], "configs/l4.pbtxt"),
        (["--max-batch", "16"], "build it with --max-batch 16 first"),
        (["--delays-ms", "5", "10"], "timeout of 5 ms"),
    ],
)
def test_requests_that_cannot_be_met_are_one_line(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "models")
    assert main(["tune", "--repository", "models", "--model", "detector", "--config-name", "t4", *argv]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_the_space_follows_from_the_configuration(tmp_path):
    _, space = searched(options(write(tmp_path / "gpu"), delays_us=(0, 500, 10_000)))
    assert space.batches == (1, 2, 4, 8)
    assert space.instances == (1, 2, 3, 4)
    assert space.delays_us == (0, 500), "10 ms is beyond the queue's timeout"
    assert space.base.max_queue_size == 16
    _, larger = searched(options(write(tmp_path / "cpu", "python"), max_batch=12, max_instances=1))
    assert larger.batches == (1, 2, 4, 8, 12)
    assert larger.instances == (1,)
    with pytest.raises(SpecError, match="--max-batch 100000: expected 256 at most, the largest that"):
        searched(options(tmp_path / "cpu", max_batch=100_000))


def test_the_grid_holds_every_configuration_under_every_load():
    trials = grid_trials(SPACE, (4, 12))
    assert len(trials) == len(set(trials)) == 16
    assert trials == grid_trials(SPACE, (4, 12)), "a later run goes on where one was stopped"


def test_the_winner_is_read_from_what_tune_wrote(tmp_path):
    trial = {"max_batch": 2, "instances": 1, "max_queue_delay_us": 1000, "clients": 4}
    value = {"schema": "tune/1", "winner": {"trial": trial}, "measurements": {"used": 9}}
    path = tmp_path / "tune.json"
    path.write_text(json.dumps(value))
    winner, used = read_winner(path, SPACE)
    assert (winner.settings.max_batch, winner.settings.max_queue_delay_us, winner.clients, used) == (2, 1000, 4, 9)
    for wrong in ({**value, "winner": None}, {"schema": "load/1"}, [], {"schema": "tune/1", "winner": {}}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(SpecError, match="--against"):
            read_winner(path, SPACE)
