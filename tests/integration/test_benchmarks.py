"""``python -m benchmarks`` against a real tritonserver, on a model small enough to answer in no time."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.queue_policy import POLICIES
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Model "tiny" in two versions."""
    return write_tiny_model(tmp_path_factory.mktemp("repository"), versions=(1, 2))


@pytest.fixture
def pictures(tmp_path):
    import cv2

    paths = [tmp_path / name for name in ("one.png", "two.png", "three.png")]
    for seed, path in enumerate(paths):
        cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8))
    return paths


OWNED = re.compile(r"yolo_triton_(?:client|server|benchmark)_(?P<pid>\d+)_")


def regions(pid=None):
    """This project's shared memory, or what of it belongs to one process: those of other runs come and go."""
    owners = {path: OWNED.match(path.name) for path in Path("/dev/shm").glob("yolo_triton_*")}
    return {path for path, owner in owners.items() if pid is None or (owner and int(owner["pid"]) == pid)}


def test_overhead_reports_every_arrangement_with_figures_that_fit_together(repository, pictures, tmp_path, capsys):
    before = regions(os.getpid())
    path = tmp_path / "figures.json"
    argv = ["overhead", "--model", "tiny", "--repository", str(repository), "--json", str(path)]
    argv += ["--repeats", "2", "--duration-s", "0.3", "--settle-s", "0.05", "--images", *map(str, pictures)]
    assert main(argv) == 0
    # Its server removes what a killed run left, which may have had the same process id.
    assert regions(os.getpid()) <= before

    report = json.loads(path.read_text())
    assert report["benchmark"] == "overhead"
    assert report["version"] == 2
    assert report["pictures"] == ["one.png", "two.png", "three.png"]
    assert report["largest_difference"] < 1e-3
    assert report["environment"]["tritonserver"]
    assert report["environment"]["command"].startswith("python -m benchmarks overhead --model tiny")

    rows = {(row["arrangement"], row["concurrency"]): row for row in report["rows"]}
    assert set(rows) == {(name, n) for name in ("in process", "gRPC", "shared memory") for n in (1, 4)}
    for (name, callers), row in rows.items():
        throughput, ratio = row["throughput_images_per_s"], row["ratio"]
        assert 0 < throughput["lowest"] <= throughput["median"] <= throughput["highest"]
        assert 0 < row["latency_p50_ms"] <= row["latency_p99_ms"]
        assert 0 < ratio["lowest"] <= ratio["median"] <= ratio["highest"]
        assert row["calls"] > 0
        if name == "in process":
            assert ratio == {"median": 1, "lowest": 1, "highest": 1}
            assert row["server"] is None
            continue
        server = row["server"]
        # Calls outside the window reach the server too.
        assert server["requests"] >= row["calls"]
        assert 1 <= server["mean_batch"] <= callers
        times = [server[f"{part}_ms"] for part in ("queue", "compute_input", "compute_infer", "compute_output")]
        assert min(times) > 0
    targets = {(target["arrangement"], target["concurrency"]): target for target in report["targets"]}
    assert {key: target["required"] for key, target in targets.items()} == {
        ("gRPC", 4): 0.85,
        ("shared memory", 4): 0.92,
    }
    for key, target in targets.items():
        assert target["reached"] == rows[key]["ratio"]["median"]
        assert target["met"] == (target["reached"] >= target["required"])

    printed = capsys.readouterr().out
    assert str(targets["gRPC", 4]["required"]) in printed
    assert printed.splitlines()[-1].endswith(report["environment"]["command"])


def test_check_turns_a_missed_target_into_exit_code_3(repository, pictures, monkeypatch):
    monkeypatch.setattr("benchmarks.overhead.TARGETS", {("gRPC", 4): 1e9})
    argv = ["overhead", "--model", "tiny", "--repository", str(repository), "--check"]
    argv += ["--repeats", "1", "--duration-s", "0.2", "--settle-s", "0.05", "--images", *map(str, pictures)]
    assert main(argv) == 3


def test_a_picture_that_cannot_be_read_is_one_line(repository, tmp_path, capsys):
    (tmp_path / "empty.jpg").touch()
    argv = ["overhead", "--model", "tiny", "--repository", str(repository), "--images", str(tmp_path / "empty.jpg")]
    assert main(argv) == 2
    assert capsys.readouterr().err == f"error: --images: {tmp_path / 'empty.jpg'}: the file is empty\n"


def terminated(*argv, after):
    """The process id of a benchmark that has ended by a SIGTERM, a moment after it had said a line that begins so."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks", *argv], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if line.startswith(after):
                break
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    return process.pid


def test_sigterm_leaves_no_region_and_no_server(repository, pictures):
    before = regions()
    short_turns = ("--repeats", "50", "--duration-s", "0.3", "--settle-s", "0.05", "--images", *map(str, pictures))
    pid = terminated("overhead", "--model", "tiny", "--repository", str(repository), *short_turns, after="turn 1 ")
    assert regions(pid) <= before
    assert not [each for each in Path("/proc").glob("[0-9]*/cmdline") if names(each, repository)]


def test_sigterm_ends_a_load_that_has_long_to_go():
    terminated("queue-policy", "--rate", "20", "--duration-s", "600", after="tritonserver is ready")


def names(cmdline, repository):
    try:
        return os.fsencode(repository) in cmdline.read_bytes()
    except OSError:
        return False


def test_queue_policy_answers_every_request_of_every_row(tmp_path, capsys, monkeypatch):
    # On a loaded machine a request may wait for longer than the second that is measured.
    limit, patience = "microseconds: 1000000 ", "microseconds: 60000000 "
    patient = {name: text.replace(limit, patience) for name, text in POLICIES.items()}
    assert patient != POLICIES
    monkeypatch.setattr("benchmarks.queue_policy.POLICIES", patient)
    monkeypatch.setattr("benchmarks.queue_policy.PATIENCE_S", 60.0)
    assert main(["queue-policy", "--rate", "20", "--duration-s", "2", "--json", str(tmp_path / "figures.json")]) == 0
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [(row["policy"], row["instances"]) for row in rows] == [
        (policy, instances) for policy in ("none", "bound", "bound and timeout") for instances in (1, 2)
    ]
    assert all(row["requests"] > 10 and row["errors"] == 0 for row in rows)
    assert all(22 <= row["latency_p50_ms"] <= row["latency_p99_ms"] <= row["latency_max_ms"] for row in rows)
    assert "bound and timeout, 2 instance(s)" in capsys.readouterr().out


def test_evaluation_is_timed_against_the_graph_alone(tmp_path, capsys):
    shapes = Path(__file__).parents[2] / "examples" / "shapes"
    arguments = ["--out", str(tmp_path / "data"), "--train", "1", "--val", "6", "--size", "160x160"]
    subprocess.run([sys.executable, str(shapes / "generate.py"), *arguments], check=True, capture_output=True)
    flags = ["--weights", str(shapes / "shapes.pt"), "--data", str(tmp_path / "data" / "data.yaml"), "--imgsz", "160"]
    assert main(["evaluation", *flags, "--repeats", "2", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["images"] == 6
    assert len(figures["alone_s"]) == len(figures["evaluation_s"]) == 2
    assert 0 < figures["map50_95"] < 1
    assert "evaluation / the graph alone" in capsys.readouterr().out
