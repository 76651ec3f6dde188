"""Workers, servers of others, and what they hold, with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.machine import OtherLoad
from benchmarks.peers.processes import PeerError, Worker, memory_bytes
from benchmarks.peers.roboflow import roboflow_server, write_package

HOLD = "import sys; held = b'1' * 50_000_000; print(len(held), flush=True); sys.stdin.read()"


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_a_client_that_cannot_connect_says_why_and_leaves_no_process() -> None:
    before = children()
    spec = {"kind": "detector", "url": "grpc://127.0.0.1:1", "model": "m", "send": "pixels", "pictures": []}
    with pytest.raises(PeerError, match=r"127\.0\.0\.1:1"):
        Worker(spec)
    assert children() <= before


def test_an_error_of_a_library_is_told_with_its_kind() -> None:
    with (
        Worker({"kind": "roboflow", "port": 1, "model": "m", "names": [], "pictures": [__file__]}) as worker,
        pytest.raises(PeerError, match=r"^ConnectionRefusedError: "),
    ):
        worker.ask("boxes")


def test_interrupted_benchmark_ends_a_client_that_is_busy_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # It would end by itself when its request has timed out, after 60 s.
    monkeypatch.setattr("benchmarks.peers.processes.END_S", 600)
    # A shell has what it starts in the background ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        spec = {"kind": "roboflow", "port": silent.getsockname()[1], "model": "m", "names": [], "pictures": [__file__]}
        threading.Thread(target=interrupt_when_connected, args=(silent,), daemon=True).start()
        with pytest.raises(KeyboardInterrupt), Worker(spec) as worker:
            worker.ask("boxes")
        assert worker._process.returncode == -signal.SIGKILL
    signal.signal(signal.SIGINT, before)


def interrupt_when_connected(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        connection.recv(1 << 24)


def test_memory_is_that_of_the_sessions_and_no_other() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        process.stdout.readline()
        held = memory_bytes([process.pid])
        assert 50_000_000 < held < 120_000_000
        assert memory_bytes([]) == 0
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(30)
    assert memory_bytes([process.pid]) == 0


def test_the_load_of_others_is_a_share_of_the_machine() -> None:
    others = OtherLoad(os.getsid(0), os.getpid())
    # The system counts in hundredths of a second: of a few of them it would tell more than there was.
    until_s = time.monotonic() + 0.5
    while time.monotonic() < until_s:
        sum(range(10_000))
    assert 0 <= others.share() <= 1.05


def test_the_time_of_a_sessions_process_stays_its_own_when_that_ends() -> None:
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    command = ["sh", "-c", f"{sys.executable} -c '{code}'; echo; read end"]
    shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0)
    with shell:
        assert shell.stdin
        assert shell.stdout
        shell.stdout.readline()
        others = OtherLoad(shell.pid)
        before_s = others._read_own_s()
        shell.stdin.write(b"\n")
        shell.stdout.readline()
        assert others._read_own_s() >= before_s >= 0.3
        shell.stdin.write(b"\n")


def test_a_python_without_roboflows_server_is_a_reason(tmp_path: Path) -> None:
    with (
        pytest.raises(PeerError, match=r"its server ended with 1: ModuleNotFoundError: No module named"),
        roboflow_server(Path(sys.executable), tmp_path / "new"),
    ):
        pass


def test_a_python_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    with (
        pytest.raises(
            PeerError, match=r"--roboflow-python .*none: expected the Python of an environment, found no file"
        ),
        roboflow_server(tmp_path / "none", tmp_path / "new"),
    ):
        pass


def test_a_python_that_is_not_there_is_refused_before_anything_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["peers", "--weights", "w.pt", "--roboflow-python", str(tmp_path / "none")]) == 2
    assert "none: expected the Python of an environment, found no file" in capsys.readouterr().err


def test_a_package_holds_the_graph_its_names_and_how_pictures_are_letterboxed(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"graph")
    write_package(tmp_path / "package", graph, (384, 640), ("circle", "square"))
    assert (tmp_path / "package" / "weights.onnx").read_bytes() == b"graph"
    assert (tmp_path / "package" / "class_names.txt").read_text() == "circle\nsquare\n"
    network = json.loads((tmp_path / "package" / "inference_config.json").read_text())["network_input"]
    assert network["training_input_size"] == {"height": 384, "width": 640}
    assert (network["resize_mode"], network["padding_value"], network["color_mode"]) == ("letterbox", 114, "rgb")
