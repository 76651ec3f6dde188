"""The streams as Prometheus reads them."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clients.errors import ClientError
from clients.video.metrics import MetricsServer, StreamMetrics
from clients.video.reader import ReadOptions
from clients.video.runner import RunOptions, StreamRunner
from clients.video.sources import sources_from
from tests.videos import NumberDetector, numbered_video


@pytest.fixture
def runner(tmp_path: Path) -> StreamRunner:
    """Two sources of 20 frames, run to their end; one frame in five of the detector's fails."""
    from clients.errors import InferenceError

    def before(number: int) -> None:
        if number % 5 == 0:
            raise InferenceError("no")

    texts = [f"{name}={numbered_video(tmp_path / f'{name}.mp4', 20)}" for name in ("a", "b")]
    options = RunOptions(reading=ReadOptions(drops_nothing=True), in_flight=2, confidence=0.25)
    runner = StreamRunner(sources_from(texts), NumberDetector(before), options)
    runner.start()
    assert runner.wait(30)
    runner.close()
    return runner


def test_metrics_say_what_the_accounts_say(runner: StreamRunner) -> None:
    server = MetricsServer(StreamMetrics(runner.sources, runner.views, runner.statuses), 0)
    try:
        assert server.url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(server.url) as answer:
            text = answer.read().decode()
    finally:
        server.close()
    values = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    for name in ("a", "b"):
        assert values["yolo_stream_frames_captured_total", name] == 20
        assert values["yolo_stream_frames_total", *sorted(("answered", name))] == 16
        assert values["yolo_stream_frames_total", *sorted(("failed", name))] == 4
        assert values["yolo_stream_frames_total", *sorted(("dropped", name))] == 0
        assert values["yolo_stream_latency_seconds_count", name] == 16
        assert values["yolo_stream_playing", name] == 0
        assert values["yolo_stream_opened_total", name] == 1
    buckets = [value for key, value in values.items() if key[0].endswith("_bucket") and "a" in key]
    assert len(buckets) == 19
    assert buckets == sorted(buckets)
    with pytest.raises(OSError):
        urllib.request.urlopen(server.url)


def test_a_port_in_use_is_one_line(runner: StreamRunner) -> None:
    metrics = StreamMetrics(runner.sources, runner.views, runner.statuses)
    server = MetricsServer(metrics, 0)
    try:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        with pytest.raises(ClientError, match="choose another --metrics-port"):
            MetricsServer(metrics, port)
    finally:
        server.close()
