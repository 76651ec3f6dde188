"""``python -m benchmarks clients`` against a real tritonserver, on a model that answers at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.instant_model import write_instant_model
from clients.contract import Contract

CONTRACT = Contract(model="m", version="", size_hw=(64, 64), names=("a", "b"), max_batch_size=4, max_detections=5)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    rows_N6 = np.zeros((5, 6), np.float32)
    rows_N6[0] = [10, 20, 30, 40, 0.9, 1]
    write_instant_model(tmp_path / "repository", CONTRACT, rows_N6)
    # Nobody computes it: the repository's files are those of a build.
    (tmp_path / "repository" / "m" / "1" / "model.onnx").touch()
    return tmp_path / "repository"


def figures(repository: Path, *arguments: object) -> dict[str, object]:
    path = repository.parent / "figures.json"
    assert (
        main(["clients", "--model", "m", "--repository", str(repository), "--json", str(path), *map(str, arguments)])
        == 0
    )
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_work_and_throughput_have_a_figure_for_each_way(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ("--repeats", 2, "--frames", 2, "--duration-s", 0.1, "--settle-s", 0.05)
    found = figures(repository, "--parts", "work", "throughput", *short)
    work, rows = found["work"], found["throughput"]
    assert isinstance(work, dict)
    assert [row["way"] for row in work["alone"]] == ["gRPC", "HTTP", "shared memory"]
    assert all(row["cpu_ms"]["median"] > 0 for row in work["alone"] + work["beside_the_model"])
    assert isinstance(rows, list)
    assert [row["ratio"] is None for row in rows] == [True, False, False, False, False]
    assert found["restarts"] is None
    assert found["cameras"] is None
    assert "target: detect_many, gRPC" in capsys.readouterr().out


def test_every_frame_of_the_cameras_is_accounted_for(repository: Path) -> None:
    run = figures(repository, "--parts", "cameras", "--cameras", 2, "--minutes", 0.1, "--share", 0.2)["cameras"]
    assert isinstance(run, dict)
    assert run["captured"] == run["answered"] + run["dropped"] + run["failed"] > 0
    assert run["written_down"] == run["answered"] + run["failed"]
    assert min(run["memory_mib"]) > 0
    assert min(run["latency_p50_ms"]) > 0
