"""``python -m benchmarks coldstart`` and ``diagnose``, and ``python -m clients keepwarm``, against a real "
"tritonserver."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.served import triton_server
from clients import Detector
from tests.tiny_model import SIZE, write_tiny_model

ROOT = Path(__file__).parents[2]
WARMUP = """
model_warmup {
  name: "batch_1" batch_size: 1
  inputs { key: "images" value { data_type: TYPE_UINT8 dims: [32, 32, 3] random_data: true } }
}
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model twice, "day" and "night", with a warmup, and sure of nothing, so that it finds nothing."""
    import onnx
    from onnx import numpy_helper

    repository = tmp_path_factory.mktemp("repository")
    for name in ("day", "night"):
        model = write_tiny_model(tmp_path_factory.mktemp(name)) / "tiny"
        graph = onnx.load(model / "1" / "model.onnx")
        (weights,) = (each for each in graph.graph.initializer if each.name == "weights")
        values = numpy_helper.to_array(weights).copy()
        # Confidence and class.
        values[:, 4::6] = values[:, 5::6] = 0
        weights.CopyFrom(numpy_helper.from_array(values, "weights"))
        onnx.save(graph, model / "1" / "model.onnx")
        for path in (model / "config.pbtxt", model / "configs" / "cpu.pbtxt"):
            path.write_text(path.read_text().replace('"tiny"', f'"{name}"') + WARMUP)
        shutil.move(model, repository / name)
    return repository


@pytest.fixture(scope="module")
def arguments(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    picture = tmp_path_factory.mktemp("pictures") / "picture.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    common = ["--repository", str(repository), "--images", str(picture), "--repeats", "1", "--requests", "20"]
    return ["coldstart", "--model", "day", *common]


def test_starts_are_measured_with_warmup_and_with_less_of_it(
    repository: Path, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> dict[Path, bytes]:
        # Python leaves its own beside model.py.
        return {path: path.read_bytes() for path in repository.rglob("*.*") if path.is_file() and path.suffix != ".pyc"}

    before = files()
    outputs = ["--json", str(tmp_path / "figures.json"), "--html", str(tmp_path / "page.html")]
    assert main([*arguments, "--parts", "starts", *outputs]) == 0
    assert files() == before

    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [each["warmup"] for each in figures["starts"]] == ["as built", "without model_warmup", "nothing warmed"]
    for start in figures["starts"]:
        assert len(start["latencies_ms"]) == 20
        assert min(start["latencies_ms"]) > 0
        assert 0 < start["up_s"] < start["ready_s"]
        assert 0 < start["load_s"] < start["ready_s"]
        assert start["new_connection_ms"] > 0
    assert "<svg" in (tmp_path / "page.html").read_text()
    assert "target: day, first request after READY at most 1.5 x" in capsys.readouterr().out


def test_switching_and_idling_are_measured(arguments: list[str], tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    parts = ["--model", "night", "--parts", "switching", "idling", "--idle-s", "1.5", "--keepwarm-s", "0.3"]
    assert main([*arguments, *parts, "--json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert figures["starts"] == []
    assert [each["to"] for each in figures["switches"]] == ["night", "day"]
    assert all(each["load_s"] > 0 and each["unload_s"] > 0 for each in figures["switches"])
    (alternation,) = figures["alternations"]
    assert set(alternation["alone_ms"]) == set(alternation["alternating_ms"]) == {"day", "night"}
    assert [each["keepwarm_s"] for each in figures["idlings"]] == [None, 0.3]
    assert figures["keepwarm"].startswith("1 of the 3 turns that it takes to say whether keepwarm helps")


def test_keepwarm_and_diagnose_beside_a_server_that_answers(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with triton_server(repository, "day") as server:
        for url in (server.grpc_url, server.http_url):
            command = [sys.executable, "-m", "clients", "keepwarm", "--model", "day", "--url", url, "--requests", "2"]
            done = subprocess.run([*command, "--once"], cwd=ROOT, capture_output=True, text=True, check=True)
            assert f"day at {url}: first " in done.stdout
            assert "median of 2 " in done.stdout
            assert done.stderr == ""
        with subprocess.Popen([*command, "--every", "0.2s"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as periodic:
            assert periodic.stdout is not None
            rounds = [periodic.stdout.readline() for _ in range(3)]
            periodic.send_signal(signal.SIGTERM)
            assert periodic.wait(30) == 0
        assert all("day at " in line for line in rounds)

        for url in (server.grpc_url, server.http_url):
            readings = diagnosed(server.grpc_url, url, server.metrics_url, tmp_path / "figures.json")
            failed = readings["day: failed requests"]
            assert failed["verdict"] == "fine"
            assert failed["figures"]["answered"] > 0
            assert readings["day: executions"]["figures"]["executions_per_s"] > 0
            assert set(readings["day: pending requests"]["figures"]) == {"pending_mean", "pending_max"}
            # The server's own process, found by its port, and the model's.
            assert readings["server memory"]["figures"]["memory_bytes"] > 50_000_000
            assert " in 2 processes" in readings["server memory"]["value"]
            assert "MB of its models' files" in readings["server memory"]["value"]
            assert readings["CPU"]["figures"]["server_share"] > 0
            # Triton's times of such a model end where its computing begins.
            for name in ("day: gaps between executions", "day: where a request's time goes"):
                assert (readings[name]["verdict"], readings[name]["figures"]) == ("not measurable here", {})

        argv = ["diagnose", "--url", server.grpc_url, "--model", "night", "--duration-s", "0.1"]
        assert main(argv) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error == f"error: expected model night to be READY at {server.grpc_url}, found day"


def diagnosed(load_url: str, url: str, metrics_url: str, path: Path) -> dict[str, dict]:
    """The readings by name, while requests are sent."""
    answered, stop = threading.Event(), threading.Event()

    def load() -> None:
        with Detector(load_url, "day") as detector:
            while not stop.is_set():
                detector.detect(np.zeros((SIZE, SIZE, 3), np.uint8))
                answered.set()

    caller = threading.Thread(target=load)
    caller.start()
    try:
        assert answered.wait(60)
        argv = ["diagnose", "--url", url, "--metrics-url", metrics_url, "--duration-s", "0.6", "--json", str(path)]
        assert main(argv) == 0
    finally:
        stop.set()
        caller.join()
    return {each["name"]: each for each in json.loads(path.read_text())["readings"]}
