"""Roboflow's inference server: starts it on weights that lie here, with the Python of its own environment."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.processes import PeerError, end, last_line

READY_TIMEOUT_S = 180
HOW_TO_GET_IT = (
    "no --roboflow-python; python -m venv DIR && DIR/bin/pip install 'inference-cpu[http]' (7 GB, and numpy 2, so it "
    "cannot be installed beside this project)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoboflowServer:
    """A ready server; its model is loaded by the first request."""

    port: int
    pid: int
    """The leader of its session."""
    version: str


def write_package(folder: Path, graph: Path, size_hw: tuple[int, int], names: Sequence[str]) -> None:
    """A model as their library keeps it: Ultralytics' ONNX of a fixed size, letterboxed with grey 114."""
    folder.mkdir(parents=True)
    shutil.copyfile(graph, folder / "weights.onnx")
    (folder / "class_names.txt").write_text("".join(f"{name}\n" for name in names))
    config = {"model_architecture": "yolov8", "task_type": "object-detection", "backend_type": "onnx"}
    (folder / "model_config.json").write_text(json.dumps(config))
    network = {
        "training_input_size": {"height": size_hw[0], "width": size_hw[1]},
        "dynamic_spatial_size_supported": False,
        "color_mode": "rgb",
        "resize_mode": "letterbox",
        "padding_value": 114,
        "input_channels": 3,
        "scaling_factor": 255,
    }
    inference = {
        "network_input": network,
        "forward_pass": {"static_batch_size": 1},
        "post_processing": {"type": "nms", "fused": False},
    }
    (folder / "inference_config.json").write_text(json.dumps(inference))


@contextlib.contextmanager
def roboflow_server(python: Path, folder: Path) -> Iterator[RoboflowServer]:
    """Start the server with that Python, in a new folder; raises PeerError where it does not get ready."""
    if not python.is_file():
        raise PeerError(f"--roboflow-python {python}: expected the Python of an environment, found no file")
    folder.mkdir(parents=True)
    port = _free_port()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("roboflow_server.py")), str(port), str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + READY_TIMEOUT_S
            while not (version := _version(port)):
                if process.poll() is not None:
                    raise PeerError(f"its server ended with {process.returncode}: {last_line(log.fileno())}")
                if time.monotonic() > deadline:
                    raise PeerError(f"its server was not ready after {READY_TIMEOUT_S} s: {last_line(log.fileno())}")
                time.sleep(0.5)
            yield RoboflowServer(port=port, pid=process.pid, version=version)
        finally:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            end(process)


def _version(port: int) -> str:
    """What it says it is; nothing until it is ready."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/info")
        return str(json.load(connection.getresponse())["version"])
    except OSError:
        return ""
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
