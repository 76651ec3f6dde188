"""``python -m benchmarks capacity --confirm``: one server's share of the cameras, sent to a real tritonserver."""

from __future__ import annotations

import json

import pytest

from benchmarks.cli import main
from benchmarks.served import triton_server
from tests.tiny_model import write_tiny_model
from tests.unit.benchmarks.capacity.load_reports import load_report, written


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    repository = write_tiny_model(tmp_path_factory.mktemp("repository"), versions=(1,))
    with triton_server(repository, "tiny") as started:
        yield started


@pytest.fixture
def planned(tmp_path):
    """8 cameras at 10 frames/s within a second, on servers that are known by a report of the model."""
    report = load_report({1: 0.02, 4: 0.07}, model="tiny", gpu=None, concurrencies=(1, 4))
    file = str(written(report, tmp_path / "load.json"))
    cameras = ["capacity", "--streams", "8", "--fps", "10", "--sla-ms", "1000", "--frames", "500"]
    return [*cameras, "--gpu", "cpu", "--report", file, "--json", str(tmp_path / "plan.json")]


def test_the_share_of_one_server_is_sent_to_it_and_compared(server, planned, tmp_path, capsys):
    page = tmp_path / "plan.html"
    code = main([*planned, "--confirm", server.grpc_url, "--confirm-s", "1.5", "--html", str(page)])
    out = capsys.readouterr().out
    told = json.loads((tmp_path / "plan.json").read_text())
    (plan,), found = told["gpus"], told["confirmation"]
    streams = -(-8 // plan["gpus_that_hold"])
    assert (found["model"], found["streams"], found["frames"]) == ("tiny", streams, streams * 15)
    assert found["failed"] == 0
    assert list(found["measured_ms"]) == list(found["simulated_ms"]) == ["50", "90", "95", "99"]
    assert 0 < found["measured_ms"]["50"] <= found["measured_ms"]["99"]
    assert found["simulated_ms"]["50"] > 20
    assert code == (0 if found["holds"] else 1)
    assert f"Confirmed on {server.grpc_url}, {streams} cameras for 1.5 s" in out
    assert "Confirmed on" in page.read_text()


@pytest.mark.parametrize(
    ("flags", "code", "expected"),
    [
        (["--gpu", "t4", "--throughput", "t4=80"], 2, "expected one --gpu"),
        (["--model", "other"], 2, "expected a report of the model other"),
    ],
)
def test_what_cannot_be_confirmed_is_one_line(server, planned, capsys, flags, code, expected):
    assert main([*planned, "--confirm", server.grpc_url, *flags]) == code
    assert expected in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_one_line(planned, capsys):
    assert main([*planned, "--confirm", "grpc://127.0.0.1:1"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "127.0.0.1:1" in error


def test_the_models_name_is_needed(capsys):
    flags = ["--gpu", "t4", "--throughput", "80", "--confirm", "grpc://127.0.0.1:1"]
    assert main(["capacity", "--streams", "8", "--fps", "10", "--sla-ms", "100", *flags]) == 2
    assert "--confirm: expected the model's name" in capsys.readouterr().err
