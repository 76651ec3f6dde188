"""``python -m benchmarks load``: what is refused before anything is measured."""

import json

import pytest

from benchmarks.cli import main, parser
from benchmarks.load.command import _loads
from benchmarks.load.points import ClosedLoop, OpenLoop
from tests.unit.benchmarks.load.test_points import REPORT


def loads(*flags):
    return _loads(parser().parse_args(["load", "--model", "m", *flags]))


def test_without_a_load_it_is_the_usual_concurrencies():
    assert loads() == tuple(ClosedLoop(concurrency=each) for each in (1, 2, 4, 8))


def test_both_kinds_of_load_may_be_asked_for_together_each_once():
    assert loads("--concurrency", "2,2", "--rate", "10,0.5") == (
        ClosedLoop(concurrency=2),
        OpenLoop(rate_per_s=10.0, distribution="poisson"),
        OpenLoop(rate_per_s=0.5, distribution="poisson"),
    )
    assert loads("--rate", "10", "--distribution", "constant") == (OpenLoop(rate_per_s=10.0, distribution="constant"),)


@pytest.mark.parametrize("flags", [("--concurrency", "1,0"), ("--rate", "-1"), ("--rate", "x"), ("--percentile", "98")])
def test_a_load_or_percentile_that_there_is_not_is_refused(flags, capsys):
    with pytest.raises(SystemExit) as refused:
        loads(*flags)
    assert refused.value.code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--json", "absent/x.json"), "--json absent/x.json: expected the folder absent"),
        (("--url", "127.0.0.1:8001"), "expected grpc://HOST:PORT or http://HOST:PORT"),
        (("--url", "grpc://127.0.0.1:8001", "--send", "http"), "--send http: --url grpc://127.0.0.1:8001"),
        (("--baseline", "absent.json"), "absent.json: expected a load report"),
        (("--gpu", "t5"), "t5"),
        (("--perf-analyzer", "absent"), "--perf-analyzer absent: expected a program"),
    ],
)
def test_a_request_that_cannot_be_done_is_one_line(flags, reason, capsys):
    assert main(["load", "--model", "m", *flags]) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert reason in said


def test_a_baseline_of_another_model_or_with_one_turn_is_refused(tmp_path, capsys):
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(REPORT.to_json()))
    assert main(["load", "--model", "m", "--baseline", str(path)]) == 2
    assert "it is of model 'shapes', expected 'm'" in capsys.readouterr().err
    assert main(["load", "--model", "shapes", "--baseline", str(path), "--repeats", "1"]) == 2
    assert "--repeats 1: a comparison with --baseline needs 2 or more" in capsys.readouterr().err
