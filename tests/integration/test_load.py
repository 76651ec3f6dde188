"""perf_analyzer and ``python -m benchmarks load`` against a real tritonserver, on a model that answers in no time."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cli import main
from benchmarks.load.points import read_load_report
from benchmarks.perf_analyzer import (
    ClosedLoop,
    OpenLoop,
    RequestsFailedError,
    Target,
    find_perf_analyzer,
    write_input_data,
)
from builder.errors import ServerError, SpecError
from tests.tiny_model import CONFIG, SIZE, write_tiny_model

SLOW = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.2)
        rows = pb_utils.Tensor("detections", np.zeros((1, 4, 6), np.float32))
        return [pb_utils.InferenceResponse([rows]) for _ in requests]
"""


@pytest.fixture(scope="module")
def perf_analyzer():
    try:
        return find_perf_analyzer()
    except SpecError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Models "tiny", and "slow", whose queue holds one request."""
    repository = write_tiny_model(tmp_path_factory.mktemp("repository"))
    (repository / "slow" / "1").mkdir(parents=True)
    (repository / "slow" / "1" / "model.py").write_text(SLOW)
    bounded = CONFIG.replace("max_queue_delay_microseconds: 500", "default_queue_policy { max_queue_size: 1 }")
    (repository / "slow" / "config.pbtxt").write_text(bounded.replace('"tiny"', '"slow"').replace("size: 8", "size: 1"))
    return repository


@pytest.fixture(scope="module")
def server(repository, triton_server):
    return triton_server(repository)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    return write_input_data(images, folder=tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def target(server, data):
    return {"model": "tiny", "shape": (SIZE, SIZE, 3), "data": data, "server_pid": server.pid, "url": server.grpc_url}


def regions():
    """Shared memory of perf_analyzer, which names it after the tensors."""
    return {path for path in Path("/dev/shm").iterdir() if path.name.startswith(("images_", "detections"))}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("shared_memory", [False, True])
def test_a_closed_loop_is_measured_by_either_protocol(perf_analyzer, server, target, protocol, shared_memory):
    url = getattr(server, f"{protocol}_url")
    before = regions()
    point = perf_analyzer.measure(
        Target(**{**target, "url": url, "shared_memory": shared_memory}),
        ClosedLoop(concurrency=4),
        window_s=0.6,
        warm_up_s=0.2,
    )
    assert point.throughput_images_per_s > 0
    # Little's law: four are under way. A window as short as this one has requests in it that began before.
    assert 1 < point.throughput_images_per_s * point.latency_ms.mean / 1e3 < 8
    assert 0 < point.latency_ms.p50 <= point.latency_ms.p90 <= point.latency_ms.p95 <= point.latency_ms.p99
    assert 0 < point.server_ms.total < point.latency_ms.mean
    assert point.client_ms is not None
    assert 1 <= point.mean_batch <= 4
    assert point.failed == 0
    assert 0 < point.usage.cpu_share <= 1.05
    assert point.usage.server_memory_bytes > 10**7
    assert regions() <= before


@pytest.mark.parametrize("distribution", ["constant", "poisson"])
def test_an_open_loop_sends_at_its_rate(perf_analyzer, target, distribution):
    load = OpenLoop(rate_per_s=40, distribution=distribution)
    point = perf_analyzer.measure(Target(**target), load, window_s=2, warm_up_s=0.2, repeats=2)
    assert point.load == load
    assert point.throughput_images_per_s == pytest.approx(40, rel=0.4)
    assert len(point.windows_images_per_s) == len(point.windows_latency_ms) == 2


def test_a_request_of_several_images_counts_each(perf_analyzer, target):
    point = perf_analyzer.measure(Target(**target, batch=4), ClosedLoop(concurrency=1), window_s=0.6, warm_up_s=0.1)
    assert set(point.batches) == {4}
    assert point.throughput_images_per_s * point.latency_ms.mean / 1e3 < 8


def test_requests_that_the_server_refuses_are_its_own_words(perf_analyzer, target):
    with pytest.raises(RequestsFailedError, match="Exceeds maximum queue size"):
        perf_analyzer.measure(Target(**{**target, "model": "slow"}), ClosedLoop(concurrency=8), window_s=1)


def test_a_server_that_is_not_there_is_one_line(perf_analyzer, target, free_ports):
    (port,) = free_ports(1)
    for scheme in ("grpc", "http"):
        with pytest.raises(ServerError, match="is a server running there"):
            perf_analyzer.measure(
                Target(**{**target, "url": f"{scheme}://127.0.0.1:{port}"}), ClosedLoop(concurrency=1), window_s=1
            )


def arguments(picture, *more):
    measured = ["--window-s", "0.6", "--warm-up-s", "0.1", "--images", str(picture)]
    return ["load", "--model", "tiny", *measured, *map(str, more)]


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    import cv2

    path = tmp_path_factory.mktemp("pictures") / "one.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    return path


@pytest.fixture(scope="module")
def measured(perf_analyzer, repository, picture, tmp_path_factory):
    """A run with a server of its own: its folder."""
    folder = tmp_path_factory.mktemp("reports")
    files = ("--json", folder / "load.json", "--csv", folder / "load.csv", "--html", folder / "load.html")
    loads = ("--concurrency", "1,4", "--rate", "50", "--repeats", "2", "--sla-ms", "10000")
    assert main(arguments(picture, "--repository", repository, *loads, *files)) == 0
    return folder


def test_a_report_holds_every_load_in_every_turn(measured):
    report = read_load_report(measured / "load.json")
    loads = [ClosedLoop(concurrency=1), ClosedLoop(concurrency=4), OpenLoop(rate_per_s=50, distribution="poisson")]
    assert [point.load for point in report.points] == loads
    assert (report.model, report.gpu, report.failures) == ("tiny", None, ())
    # Triton's compute is the hand-over alone.
    assert report.service_ms == {}
    for point in report.points:
        assert len(point.windows_images_per_s) == 2
        assert point.mean_batch >= 1
    assert report.best_within(10000, 99).load in loads
    assert report.environment["windows"].startswith("2 of 0.6 s")
    assert report.environment["perf_analyzer"]
    assert "one.png" in report.environment["images"]


def test_the_csv_has_a_line_for_each_load(measured):
    rows = list(csv.DictReader((measured / "load.csv").read_text().splitlines()))
    assert [(row["kind"], row["concurrency"], row["rate_per_s"]) for row in rows] == [
        ("closed", "1", ""),
        ("closed", "4", ""),
        ("open", "", "50.0"),
    ]
    assert all(float(row["latency_p99_ms"]) > 0 for row in rows)


def test_the_page_names_its_commands(measured):
    text = (measured / "load.html").read_text()
    assert "--concurrency-range 4" in text
    assert "python -m builder serve --repository" in text


def test_a_command_that_was_printed_runs_by_hand(server, picture, capsys):
    assert main(arguments(picture, "--url", server.grpc_url, "--concurrency", "2", "--repeats", "1")) == 0
    printed = capsys.readouterr().out
    (command,) = [line for line in printed.splitlines() if "--concurrency-range 2" in line]
    result = subprocess.run(shlex.split(command), capture_output=True, check=True, env=os.environ, text=True)
    assert re.search(r"Concurrency: 2, throughput: [\d.]+ infer/sec", result.stdout)
    # One repetition shows no noise.
    assert "±" not in printed


def test_sigterm_leaves_no_region_and_no_program(perf_analyzer, server, picture):
    address = server.grpc_url.removeprefix("grpc://").encode()

    def programs():
        return [each for each in Path("/proc").glob("[0-9]*/cmdline") if is_asking(each, address)]

    # One that was killed may have left its own, which have the same names.
    before = regions()
    run = [*arguments(picture, "--url", server.grpc_url, "--send", "shared-memory"), "--window-s", "60"]
    process = subprocess.Popen([sys.executable, "-m", "benchmarks", *run], stderr=subprocess.DEVNULL)
    try:
        while not (programs() and regions()) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert regions() <= before
    assert programs() == []


def is_asking(cmdline, address):
    try:
        return b"perf_analyzer" in (said := cmdline.read_bytes()) and address in said
    except OSError:
        return False


def test_a_goal_that_no_load_meets_is_exit_code_1(server, picture, capsys):
    goal = ("--sla-ms", "0.001", "--percentile", "50")
    run = arguments(picture, "--url", server.http_url, "--concurrency", "1", "--repeats", "1", *goal)
    assert main(run) == 1
    assert "goal: p50 within 0.001 ms: MISSED at every load" in capsys.readouterr().out


def test_a_run_slower_than_its_baseline_is_exit_code_1(measured, server, picture, tmp_path, capsys):
    baseline = json.loads((measured / "load.json").read_text())
    for point in baseline["points"]:
        point["windows_images_per_s"] = [1e6 * each for each in point["windows_images_per_s"]]
    (tmp_path / "baseline.json").write_text(json.dumps(baseline))
    again = ("--concurrency", "4", "--repeats", "2", "--baseline", tmp_path / "baseline.json")
    assert main(arguments(picture, "--url", server.grpc_url, *again)) == 1
    assert "REGRESSION" in capsys.readouterr().out


def test_a_load_that_the_server_refuses_is_told_and_the_others_are_measured(perf_analyzer, server, picture, capsys):
    loads = ("--concurrency", "1,8", "--repeats", "1", "--window-s", "3")
    run = ["slow" if each == "tiny" else each for each in arguments(picture, "--url", server.grpc_url, *loads)]
    assert main(run) == 0
    printed = capsys.readouterr().out
    assert "not measured at 8 at a time: the server failed a request: " in printed
    images_per_s = re.search(r"^1 at a time +([\d.]+)", printed, re.MULTILINE)[1]
    # Each takes 0.2 s at least, and a window of 3 s may have one in it that began before.
    assert 0 < float(images_per_s) <= 16 / 3 + 0.05
