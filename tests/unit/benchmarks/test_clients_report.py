"""The report of the clients' benchmark: which targets it has, and when they are met."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.clients_report import (
    THROUGHPUT_ROW,
    CameraRun,
    ClientsReport,
    Restarts,
    ThroughputRow,
    Work,
    WorkRow,
)
from benchmarks.figures import Spread
from benchmarks.instant_model import write_instant_model
from benchmarks.served_model import find_served_model
from clients.contract import Contract

RESTARTS = Restarts(
    kills=20,
    timeout_s=5,
    outcomes={"answered": 10, "ServerUnavailableError": 3},
    untyped=0,
    longest_s=0.9,
    late=0,
    goes_on=True,
    segments_left=[],
)
CAMERAS = CameraRun(
    cameras=16,
    minutes=10,
    capacity_frames_per_s=30,
    share=0.9,
    captured=16200,
    answered=16190,
    dropped=8,
    failed=2,
    written_down=16192,
    seconds=600,
    memory_mib=(300.0, 303.0),
    server_memory_mib=(700.0, 700.0),
    latency_p50_ms=(100.0, 105.0),
    latency_p99_ms=(200.0, 230.0),
)
CONTRACT = Contract(
    model="m", version="", size_hw=(64, 32), names=("a", 'with "quotes", ünd \\'), max_batch_size=4, max_detections=5
)


def spread(value: float) -> Spread:
    return Spread.of([value])


def report(
    *,
    grpc_ms: float = 2.0,
    shared_ms: float = 1.0,
    ratio: float = 0.96,
    allocated: int = 700,
    restarts: Restarts | None = RESTARTS,
    cameras: CameraRun | None = CAMERAS,
) -> ClientsReport:
    rows = tuple(
        WorkRow(way=way, cpu_ms=spread(value))
        for way, value in (("gRPC", grpc_ms), ("HTTP", 9.0), ("shared memory", shared_ms))
    )
    return ClientsReport(
        model="m",
        version=1,
        repeats=1,
        frames=10,
        duration_s=1,
        reference="the load",
        work=Work(
            alone=rows,
            beside_the_model=tuple(replace(row, cpu_ms=spread(9.0)) for row in rows),
            letterbox_ms=spread(0.5),
            letterbox_allocated_bytes=allocated,
        ),
        throughput=(
            ThroughputRow(way="the load", images_per_s=spread(30), ratio=None, in_flight=8),
            ThroughputRow(way=THROUGHPUT_ROW, images_per_s=spread(29), ratio=spread(ratio), in_flight=16),
        ),
        restarts=restarts,
        cameras=cameras,
        other_cpu_share=0.0,
        environment={"command": "python -m benchmarks clients"},
    )


def test_all_targets_met_is_said_of_each() -> None:
    text = report().to_text()
    assert report().all_met
    assert text.count(", met") == 8
    assert "13 requests = 10 answered, 3 ServerUnavailableError" in text


@pytest.mark.parametrize(
    "missed",
    [
        report(grpc_ms=3.01),
        report(shared_ms=1.51),
        report(ratio=0.949),
        report(allocated=640 * 640),
        report(restarts=replace(RESTARTS, untyped=1)),
        report(restarts=replace(RESTARTS, late=1)),
        report(restarts=replace(RESTARTS, goes_on=False)),
        report(restarts=replace(RESTARTS, segments_left=["yolo_triton_client_1"])),
        report(cameras=replace(CAMERAS, memory_mib=(300.0, 306.1))),
        report(cameras=replace(CAMERAS, latency_p50_ms=(100.0, 111.0))),
        report(cameras=replace(CAMERAS, dropped=7)),
        report(cameras=replace(CAMERAS, written_down=16191)),
    ],
)
def test_one_target_missed_is_named_and_counts(missed: ClientsReport) -> None:
    assert not missed.all_met
    assert missed.to_text().count("NOT MET") == 1


def test_part_that_was_not_measured_is_no_target() -> None:
    assert report(restarts=None).to_text().count("target: ") == 7
    assert report(cameras=None).to_text().count("target: ") == 5
    alone = replace(report(restarts=None), work=None, throughput=())
    assert alone.to_text().count("target: ") == 3
    assert "16200 captured = 16190 answered + 8 dropped + 2 failed" in alone.to_text()


def test_every_figure_is_in_the_json() -> None:
    figures = json.loads(json.dumps(report().to_json()))
    assert figures["benchmark"] == "clients"
    assert figures["work"]["alone"][2]["cpu_ms"]["median"] == 1.0
    assert figures["restarts"]["outcomes"] == {"answered": 10, "ServerUnavailableError": 3}


def test_model_that_answers_at_once_has_the_same_contract(tmp_path: Path) -> None:
    write_instant_model(tmp_path, CONTRACT, np.zeros((5, 6), np.float32))
    (tmp_path / "m" / "1" / "model.onnx").touch()
    assert find_served_model(tmp_path, "m").contract == CONTRACT
