"""A worker of ``python -m benchmarks peers`` against a real tritonserver, and what it puts on the wire."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.peers.contestants import REFERENCE, Contestant
from benchmarks.peers.measure import _wire
from benchmarks.peers.processes import PeerError, Worker, memory_bytes
from builder.server import TritonServer
from tests.conftest import StartServer

SIZE = 64
# A detector without a network: the same box in every picture.
CODE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            images = pb_utils.get_input_tensor_by_name(request, "images").as_numpy()
            rows = np.zeros((len(images), 4, 6), np.float32)
            rows[:, 0] = 8, 16, 32, 48, 0.75, 0
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("detections", rows)]))
        return responses
"""
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 8
input [{{ name: "images" data_type: TYPE_UINT8 dims: [64, 64, 3] }}]
output [{{ name: "detections" data_type: TYPE_FP32 dims: [4, 6] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
parameters {{ key: "contract" value {{ string_value: "detections/1" }} }}
parameters {{ key: "names" value {{ string_value: "[\\"thing\\"]" }} }}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_server: StartServer) -> TritonServer:
    repository = tmp_path_factory.mktemp("repository")
    for name, code in (("box", CODE), ("elsewhere", CODE.replace("8, 16, 32, 48", "1, 1, 9, 9"))):
        version = repository / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(code)
        (repository / name / "config.pbtxt").write_text(CONFIG.format(name=name))
    return triton_server(repository)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    paths = [tmp_path_factory.mktemp("pictures") / f"{number}.png" for number in range(2)]
    for path in paths:
        cv2.imwrite(str(path), np.full((2 * SIZE, 2 * SIZE, 3), 200, np.uint8))
    return list(map(str, paths))


def contestant(server: TritonServer, send: str = "pixels", name: str = REFERENCE, model: str = "box") -> Contestant:
    return Contestant(
        name=name,
        arithmetic="none",
        spec=lambda port: {"kind": "detector", "url": f"grpc://127.0.0.1:{port}", "model": model, "send": send},
        port=server.options.grpc_port,
        sessions=(server.pid,),
    )


def test_a_worker_finds_boxes_and_is_timed(server: TritonServer, pictures: list[str]) -> None:
    one = contestant(server)
    with Worker({**one.spec(one.port), "pictures": pictures}) as worker:
        # In the pixels of the picture, which is twice as large as the model's input.
        assert worker.ask("boxes") == [[[16, 32, 64, 96, 0.75, 0]]] * 2
        assert len(worker.ask("latency", calls=3)) == 6
        assert worker.ask("throughput", callers=3, settle_s=0.05, duration_s=0.2) > 0
        assert memory_bytes([worker.pid]) > 20_000_000
        assert memory_bytes([worker.pid, server.pid]) > memory_bytes([worker.pid])
        with pytest.raises(PeerError, match="no such thing"):
            worker.ask("no such thing")


def test_a_worker_that_is_killed_is_a_reason(server: TritonServer, pictures: list[str]) -> None:
    one = contestant(server)
    with Worker({**one.spec(one.port), "pictures": pictures}) as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(PeerError, match="its process ended with -9"):
            worker.ask("boxes")


def test_bytes_on_the_wire_are_the_pixels_and_little_more(server: TritonServer, pictures: list[str]) -> None:
    pixels, answer = SIZE * SIZE * 3, 4 * 6 * 4
    sent, received = {}, {}
    for send in ("pixels", "shared-memory"):
        one = contestant(server, send)
        with Worker({**one.spec(one.port), "pictures": pictures}) as worker:
            wire = _wire(one, worker, len(pictures))
        assert wire is not None
        sent[send], received[send] = wire.sent_bytes, wire.received_bytes
    assert pixels < sent["pixels"] < pixels + 600
    assert answer < received["pixels"] < answer + 600
    assert sent["shared-memory"] < 1000


def test_only_who_finds_the_boxes_is_timed_and_who_cannot_run_is_named(
    server: TritonServer, pictures: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = dataclasses.replace(contestant(server), name="gone", port=1)
    all_of_them = [
        contestant(server),
        contestant(server, "shared-memory", "in memory"),
        contestant(server, name="liar", model="elsewhere"),
        gone,
    ]
    network = SimpleNamespace(imgsz=(SIZE, SIZE))

    @contextlib.contextmanager
    def prepared(*_: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(
            network=network,
            contestants=all_of_them,
            not_run={"absent": "no such thing"},
            versions={"tritonserver": "2"},
        )

    # What is served and exported takes a minute; what is compared and timed is the same.
    monkeypatch.setattr("benchmarks.peers.measure.contestants", prepared)
    monkeypatch.setattr("benchmarks.peers.measure.pytorch", lambda *_: contestant(server).spec(port_of(server)))
    flags = ["--repeats", "2", "--calls", "2", "--duration-s", "0.2", "--settle-s", "0.05", "--callers", "2"]
    files = ["--json", str(tmp_path / "peers.json"), "--html", str(tmp_path / "peers.html")]
    assert main(["peers", "--weights", "any.pt", "--images", *pictures, *flags, *files]) == 1
    figures = json.loads((tmp_path / "peers.json").read_text())
    assert [row["name"] for row in figures["rows"]] == [REFERENCE, "in memory"]
    assert set(figures["disagreeing"]) == {"liar"}
    assert set(figures["not_run"]) == {"absent", "gone"}
    assert figures["boxes"] == 2
    ours, in_memory = figures["rows"]
    assert ours["calls"] == in_memory["calls"] == 2 * 2 * len(pictures)
    assert ours["time_ratio"] == ours["throughput_ratio"] == {"median": 1, "lowest": 1, "highest": 1}
    assert 0 < ours["latency_p50_ms"] <= ours["latency_p99_ms"]
    assert in_memory["wire"]["sent_bytes"] < ours["wire"]["sent_bytes"]
    assert (tmp_path / "peers.html").read_text().count("<svg") >= 4

    all_of_them[1:] = []
    assert main(["peers", "--weights", "any.pt", "--images", *pictures, *flags]) == 0


def port_of(server: TritonServer) -> int:
    return server.options.grpc_port


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--weights", "model.onnx"], "--weights model.onnx: expected a .pt"),
        (["--weights", "model.pt", "--images", "none.jpg"], "none.jpg: expected a picture, found no file"),
        (["--weights", "model.pt", "--html", "none/page.html"], "--html none/page.html: expected the folder none"),
    ],
)
def test_a_wrong_request_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = tmp_path / "one.png"
    cv2.imwrite(str(picture), np.zeros((8, 8, 3), np.uint8))
    if "--images" not in arguments:
        arguments = [*arguments, "--images", str(picture)]
    assert main(["peers", *arguments]) == 2
    said_at_all = capsys.readouterr().err
    assert said in said_at_all
    assert json.dumps(said_at_all).count("\\n") == 1
