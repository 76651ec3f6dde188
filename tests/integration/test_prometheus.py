"""deploy/prometheus and the dashboard on a real Prometheus, which scrapes a real tritonserver and a real stream."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from builder.server import TritonServer
from clients import Detector
from tests.conftest import FreePorts, StartServer
from tests.promql import GPU_METRICS, PROMETHEUS, dashboard, executable, metric_names, panel_expressions, rules
from tests.videos import numbered_video

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60
SIZE = 64
MODEL = "shapes"
# A detector without a network: no box in any picture. The name in the configuration is that of prometheus.yml.
CODE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        images = [pb_utils.get_input_tensor_by_name(request, "images").as_numpy() for request in requests]
        nothing = [pb_utils.Tensor("detections", np.zeros((len(each), 4, 6), np.float32)) for each in images]
        return [pb_utils.InferenceResponse([each]) for each in nothing]
"""
CONFIG = """
name: "shapes"
backend: "python"
max_batch_size: 8
input [{ name: "images" data_type: TYPE_UINT8 dims: [64, 64, 3] }]
output [{ name: "detections" data_type: TYPE_FP32 dims: [4, 6] }]
instance_group [{ count: 1 kind: KIND_CPU }]
dynamic_batching { max_queue_delay_microseconds: 500 }
parameters { key: "contract" value { string_value: "detections/1" } }
parameters { key: "names" value { string_value: "[\\"thing\\"]" } }
"""


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self._url, self._process = url, process

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        found: list[dict[str, Any]] = self._get("query?" + urllib.parse.urlencode({"query": expression}))["result"]
        return found

    def alerts(self) -> dict[str, dict[str, Any]]:
        """The alerts that are pending or firing, by name."""
        return {alert["labels"]["alertname"]: alert for alert in self._get("alerts")["alerts"]}

    def names(self) -> set[str]:
        """Every metric that it has seen."""
        return set(self._get("label/__name__/values"))

    def rule_errors(self) -> list[str]:
        """What went wrong when rules were evaluated."""
        groups = self._get("rules")["groups"]
        return [f"{rule['name']}: {rule['lastError']}" for g in groups for rule in g["rules"] if rule.get("lastError")]

    def wait_for(self, what: Callable[[], bool], why: str) -> None:
        self.wait_for_none(lambda: () if what() else (why,))

    def wait_for_none(self, of: Callable[[], Collection[object]]) -> None:
        """Until none is left."""
        deadline = time.monotonic() + PATIENCE_S
        left: Collection[object] = ("an answer",)
        while True:
            with contextlib.suppress(OSError):
                left = of()
            if not left:
                return
            assert self._process.poll() is None, "Prometheus ended"
            assert time.monotonic() < deadline, f"it did not come to that: {left}"
            time.sleep(0.2)

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_server: StartServer) -> TritonServer:
    executable("prometheus")
    repository = tmp_path_factory.mktemp("repository")
    version = repository / MODEL / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(CODE)
    (repository / MODEL / "config.pbtxt").write_text(CONFIG)
    summaries = ("--metrics-config", "summary_latencies=true")
    return triton_server(repository, models=(MODEL,), extra_args=summaries)


@pytest.fixture(scope="module")
def stream(
    server: TritonServer, free_ports: FreePorts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The port of the metrics of ``python -m clients stream``, which plays a video again and again, and its process."""
    video = numbered_video(tmp_path_factory.mktemp("video") / "numbers.mp4", 25)
    (port,) = free_ports(1)
    flags = ["--url", server.grpc_url, "--model", MODEL, "--loop", "--metrics-port", port]
    command = [sys.executable, "-m", "clients", "stream", f"gate={video}", *map(str, flags)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield port, process
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def prometheus(
    server: TritonServer,
    stream: tuple[int, subprocess.Popen[bytes]],
    free_ports: FreePorts,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Prometheus]:
    """It runs on deploy/prometheus with the ports of this test, and reads every second."""
    folder = shutil.copytree(PROMETHEUS, tmp_path_factory.mktemp("prometheus") / "etc")
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    ports = {
        "triton": server.options.metrics_port,
        "triton-ready": server.options.http_port,
        "yolo-stream": stream[0],
    }
    for job in config["scrape_configs"]:
        job["static_configs"][0]["targets"] = [f"127.0.0.1:{ports[job['job_name']]}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    command = [executable("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    log = (folder / "log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, text=True)
    try:
        yield Prometheus(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.fixture(scope="module")
def busy(prometheus: Prometheus, server: TritonServer) -> Prometheus:
    """After requests that Prometheus has seen come in, between two of its scrapes at least."""

    def asked() -> bool:
        with Detector(server.grpc_url, MODEL) as detector:
            for _ in range(20):
                detector.detect(np.zeros((SIZE, SIZE, 3), np.uint8))
        # The last rule of the last group, on what two scrapes have seen.
        return bool(prometheus.query("source:yolo_stream_latency_seconds:p99 > 0")) and bool(
            prometheus.query("model:triton_latency_seconds:mean2m > 0")
        )

    prometheus.wait_for(asked, "rules give figures of the requests and of the stream")
    return prometheus


def on_gpu(expression: str) -> bool:
    """Whether it reads what only a GPU has."""
    return any(name in GPU_METRICS or name.startswith("gpu:") for name in metric_names(expression))


def test_every_name_that_a_rule_reads_is_there(busy: Prometheus) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    read = {name for rule in rules() for name in metric_names(str(rule["expr"]))} - recorded - GPU_METRICS
    busy.wait_for_none(lambda: read - busy.names())
    assert any(name.startswith("nv_cpu_") for name in read)


def test_every_rule_gives_a_figure_without_an_error(busy: Prometheus) -> None:
    on_gpus = {rule["record"] for rule in rules() if "record" in rule and on_gpu(str(rule["expr"]))}
    recorded = {rule["record"] for rule in rules() if "record" in rule} - on_gpus
    busy.wait_for_none(lambda: {name for name in recorded if not busy.query(name)})
    assert len(on_gpus) == 3
    assert busy.rule_errors() == []
    labels = busy.query("model:triton_requests:rate2m")[0]["metric"]
    assert labels == {
        "__name__": "model:triton_requests:rate2m",
        "server": "triton-1",
        "model": MODEL,
        "version": "1",
    }
    stages = {each["metric"]["stage"] for each in busy.query("model:triton_stage_seconds:mean2m")}
    assert stages == {"queue", "compute_input", "compute_infer", "compute_output"}


def test_every_panel_shows_something(busy: Prometheus) -> None:
    panels = panel_expressions(dashboard())
    busy.wait_for_none(
        lambda: [
            (title, each)
            for title, all_of in panels.items()
            for each in all_of
            if not on_gpu(each) and not busy.query(each)
        ]
    )


def test_figures_agree_with_what_triton_counts(busy: Prometheus) -> None:
    def value(expression: str) -> float:
        (sample,) = busy.query(expression)
        return float(sample["value"][1])

    assert value("model:triton_failures:ratio2m") == 0
    # Every request has one image, and up to eight are in a batch. A scrape may come between Triton's two counters.
    assert value("model:triton_batch_size:mean2m") >= 0.95
    assert value("model:triton_images:rate2m / model:triton_requests:rate2m") == pytest.approx(1, abs=0.05)
    # The stages are parts of the whole.
    assert 0 < value("sum(model:triton_stage_seconds:mean2m) / sum(model:triton_latency_seconds:mean2m)") <= 1.001
    assert value("model:triton_latency_seconds:p50 <= bool model:triton_latency_seconds:p99") == 1
    assert value("source:yolo_stream_playing:min") == 1
    assert value('up{job="triton-ready"}') == 1


def test_a_model_that_is_unloaded_a_stream_that_ends_and_a_server_that_stops_are_noticed(
    busy: Prometheus, server: TritonServer, stream: tuple[int, subprocess.Popen[bytes]]
) -> None:
    provoked = {"StreamDown", "TritonModelNotReady", "TritonDown"}
    busy.wait_for_none(lambda: provoked & busy.alerts().keys())
    stream[1].terminate()
    busy.wait_for(lambda: "StreamDown" in busy.alerts(), "StreamDown")
    request = urllib.request.Request(f"{server.http_url}/v2/repository/models/{MODEL}/unload", method="POST")
    urllib.request.urlopen(request, timeout=30).close()
    alerts: dict[str, dict[str, Any]] = {}

    def is_not_ready() -> bool:
        alerts.update(busy.alerts())
        return "TritonModelNotReady" in alerts

    busy.wait_for(is_not_ready, "TritonModelNotReady")
    alert = alerts["TritonModelNotReady"]
    assert alert["annotations"]["summary"] == f"{MODEL} on triton-1 is not ready"
    server.stop()
    busy.wait_for(lambda: "TritonDown" in busy.alerts(), "TritonDown")
    busy.wait_for(lambda: "TritonModelNotReady" not in busy.alerts(), "one alert for a server that is down")
