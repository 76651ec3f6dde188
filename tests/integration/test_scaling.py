"""One worker against two, as real processes on a small network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cli import main
from tests.trainings import write_dataset, write_network


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("shapes") / "data")


def test_one_and_two_workers_are_measured_and_more_predicted(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, html = tmp_path / "scaling.json", tmp_path / "scaling.html"
    fixed = ("--data", str(dataset), "--imgsz", "64", "--batch", "2", "--threads", "1", "--steps", "1")
    more = ("--repeats", "2", "--json", str(path), "--html", str(html), "--link", "25GbE", "--predict", "2", "8")
    assert main(["scaling", "--model", str(write_network(tmp_path)), *fixed, *more]) == 0
    values = json.loads(path.read_text())
    assert values["one"].keys() == {"1", "2"}
    assert [(each["kind"], each["workers"], each["images"]) for each in values["measured"]] == [
        ("weak", 2, 2),
        ("strong", 2, 1),
    ]
    for each in values["measured"]:
        assert each["efficiency"]["median"] > 0
        assert each["apart_s"]["median"] > 0
    workload = values["workload"]
    # Each of the network's batch norms twice, and the criterion of its one head.
    assert workload["small_exchanges"] % 2 == 1
    assert workload["small_exchanges"] > 50
    assert workload["gradient_bytes"] > 1e5
    assert 0 < workload["backward_share"] < 1
    assert [(each["workers"], each["images"]) for each in values["predicted"]] == [(2, 2), (8, 2)]
    assert [(each["workers"], each["images"]) for each in values["predicted_strong"]] == [(2, 1)]
    assert len(values["checks"]) == 2
    assert "PREDICTED, not measured" in capsys.readouterr().out
    assert html.read_text().count("<svg") >= 3


def test_worker_that_cannot_train_is_told_in_a_line(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "other.pt"
    weights.write_bytes(b"no checkpoint")
    fixed = ("--data", str(dataset), "--imgsz", "64", "--batch", "2")
    assert main(["scaling", "--weights", str(weights), *fixed]) in (1, 2)
    said = capsys.readouterr().err
    assert f"{weights}" in said
    assert "Traceback" not in said
