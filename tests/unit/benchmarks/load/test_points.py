"""benchmarks.load.points."""

import dataclasses
import json

import pytest

from benchmarks.load.points import (
    ClientTimes,
    ClosedLoop,
    Latencies,
    LoadPoint,
    LoadReport,
    OpenLoop,
    ServerTimes,
    Usage,
    read_load_report,
)
from builder.errors import SpecError

POINT = LoadPoint(
    load=ClosedLoop(concurrency=4),
    throughput_images_per_s=80.0,
    latency_ms=Latencies(mean=50.0, p50=48.0, p90=60.0, p95=65.0, p99=70.0),
    server_ms=ServerTimes(queue=10.0, compute_input=1.0, compute_infer=30.0, compute_output=0.5),
    client_ms=ClientTimes(send=0.3, receive=0.2),
    batches={1: 10, 4: 5},
    windows_images_per_s=(79.0, 81.0),
    windows_latency_ms=(Latencies(mean=50.0, p50=48.0, p90=60.0, p95=65.0, p99=70.0),),
    usage=Usage(cpu_share=0.9, server_memory_bytes=10**9),
)
REPORT = LoadReport(
    model="shapes",
    gpu="t4",
    points=(
        dataclasses.replace(POINT, load=OpenLoop(rate_per_s=20.0, distribution="poisson"), client_ms=None),
        POINT,
    ),
    service_ms={1: 22.0, 4: 60.0},
    environment={"cores": "2"},
)


def test_a_report_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "load.json"
    path.write_text(json.dumps(REPORT.to_json()))
    assert read_load_report(path) == REPORT


def test_the_mean_batch_is_images_by_execution():
    assert POINT.mean_batch == 30 / 15
    assert dataclasses.replace(POINT, batches={}).mean_batch == 0


def test_what_neither_server_nor_client_account_for_is_the_way_between_them():
    assert POINT.other_ms == pytest.approx(50 - 41.5 - 0.5)
    assert dataclasses.replace(POINT, client_ms=None).other_ms == pytest.approx(50 - 41.5)


def point(images_per_s, p99, failed=0):
    latencies = dataclasses.replace(POINT.latency_ms, p99=p99)
    return dataclasses.replace(POINT, throughput_images_per_s=images_per_s, latency_ms=latencies, failed=failed)


def test_the_best_point_is_the_fastest_of_those_within_the_limit():
    report = dataclasses.replace(
        REPORT, points=(point(10, 20), point(30, 50), point(90, 50.1), point(80, 40, failed=1))
    )
    assert report.best_within(50, 99) == report.points[1]
    assert report.best_within(48, 50) == report.points[2]
    assert report.best_within(5, 99) is None
    with pytest.raises(SpecError, match="50, 90, 95, 99, got 42"):
        report.best_within(50, 42)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "got something else"),
        ("nonsense", "Expecting value"),
        ('{"schema": "load/2"}', "its schema is 'load/2'"),
        ('{"schema": "load/1", "model": "m"}', "it has no 'points'"),
        ('{"schema": "load/1", "model": "m", "points": [{"load": {"kind": "odd"}}]}', "a load is"),
        (json.dumps(REPORT.to_json()).replace("80.0", "NaN"), "finite number"),
    ],
)
def test_a_file_that_is_no_report_is_refused_with_its_reason(tmp_path, text, reason):
    path = tmp_path / "load.json"
    path.write_text(text)
    with pytest.raises(SpecError, match="expected a load report") as refused:
        read_load_report(path)
    assert reason in str(refused.value)


def test_a_file_that_is_not_there_is_refused_with_the_command_that_writes_it(tmp_path):
    with pytest.raises(SpecError, match="python -m benchmarks load"):
        read_load_report(tmp_path / "load.json")
