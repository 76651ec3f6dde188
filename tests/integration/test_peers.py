"""A worker of ``python -m benchmarks peers`` against a real tritonserver, and what it puts on the wire."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.peers.contestants import Contestant
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
name: "box"
backend: "python"
max_batch_size: 8
input [{ name: "images" data_type: TYPE_UINT8 dims: [64, 64, 3] }]
output [{ name: "detections" data_type: TYPE_FP32 dims: [4, 6] }]
instance_group [{ count: 1 kind: KIND_CPU }]
parameters { key: "contract" value { string_value: "detections/1" } }
parameters { key: "names" value { string_value: "[\\"thing\\"]" } }
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_server: StartServer) -> TritonServer:
    repository = tmp_path_factory.mktemp("repository")
    version = repository / "box" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(CODE)
    (repository / "box" / "config.pbtxt").write_text(CONFIG)
    return triton_server(repository)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    paths = [tmp_path_factory.mktemp("pictures") / f"{number}.png" for number in range(2)]
    for path in paths:
        cv2.imwrite(str(path), np.full((2 * SIZE, 2 * SIZE, 3), 200, np.uint8))
    return list(map(str, paths))


def contestant(server: TritonServer, send: str = "pixels") -> Contestant:
    return Contestant(
        name="box",
        arithmetic="none",
        spec=lambda port: {"kind": "detector", "url": f"grpc://127.0.0.1:{port}", "model": "box", "send": send},
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
    over_grpc = _wire(contestant(server), pictures)
    assert over_grpc is not None
    assert pixels < over_grpc.sent_bytes < pixels + 600
    assert answer < over_grpc.received_bytes < answer + 600
    in_memory = _wire(contestant(server, "shared-memory"), pictures)
    assert in_memory is not None
    assert in_memory.sent_bytes < 1000


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
