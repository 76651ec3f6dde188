"""Which bound binds, which batch is served, and what no number of GPUs can do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.capacity.bounds import COMPUTE, LATENCY, MEMORY, PCIE, Graph
from benchmarks.capacity.formulas import transfer_s
from benchmarks.capacity.request import CONTRACT_BYTES, CapacityRequest, Kind
from benchmarks.capacity.sizing import size_kind
from benchmarks.load.points import ClosedLoop
from builder.artifacts import OnnxModel, TensorSpec
from builder.buffers import Buffer
from builder.gpus import find_gpu
from builder.graph_cost import GraphCost
from builder.serving import ServingRequest
from builder.sizing import size
from tests.unit.benchmarks.capacity.load_reports import load_report

MODEL = OnnxModel(
    path=Path("model.onnx"),
    sha256="",
    inputs=(TensorSpec(name="images", dtype="UINT8", shape=(640, 640, 3)),),
    outputs=(TensorSpec(name="detections", dtype="FP32", shape=(300, 6)),),
)


def graph_of(gflops: float = 28.6, *, weight_mb: float = 22.4, activation_mb: float = 40.0, **changes) -> Graph:
    """YOLOv8s, about."""
    cost = GraphCost(
        multiply_adds=round(gflops * 1e9 / 2),
        fp32_share=0.0,
        weight_bytes=round(weight_mb * 1e6),
        layers=70,
        traffic_bytes=60_000_000,
        unsized_tensors=0,
        buffers=(
            Buffer(first_step=0, last_step=1, bytes_fixed=0, bytes_per_image=round(activation_mb * 1e6) // 256 * 256),
        ),
    )
    return Graph(model=MODEL, cost=dataclasses.replace(cost, **changes))


def request_of(**changes) -> CapacityRequest:
    common = {
        "streams": 64,
        "fps": 10.0,
        "sla_ms": 50.0,
        "percentile": 99,
        "redundancy": 1.5,
        "peak": 1.3,
        "delay_ms": 0.5,
        "max_batch": None,
        "jitter_ms": 5.0,
        "reconnect_s": 1.0,
        "bytes_per_frame": CONTRACT_BYTES,
        "kinds": (),
        "frames": 1_000,
        "graph": graph_of(),
    }
    return CapacityRequest(**{**common, **changes})


def sized(gpu: str = "t4", *, kind: dict | None = None, **changes):
    target = None if gpu == "cpu" else find_gpu(gpu)
    return size_kind(request_of(**changes), Kind(name=gpu, gpu=target, **(kind or {})))


@pytest.mark.parametrize("gpu", ["t4", "l4", "a10", "a100-40gb", "h100-sxm"])
@pytest.mark.parametrize("sla_ms", [20.0, 30.0, 50.0])
def test_an_estimate_serves_the_batch_that_a_build_would_choose(gpu, sla_ms):
    graph = graph_of(traffic_bytes=0)
    built = size(graph.cost, MODEL, find_gpu(gpu), ServingRequest(sla_ms=sla_ms))
    # A build does not count the time on the bus.
    on_the_bus_ms = transfer_s(find_gpu(gpu), CONTRACT_BYTES, 1) * 1e3
    found = sized(gpu, sla_ms=sla_ms + on_the_bus_ms + 1e-6, graph=graph)
    assert found.bounds.batch == built.settings.max_batch
    assert found.bounds.full_load_ms == pytest.approx(built.latency_ms + on_the_bus_ms)


def test_compute_binds_where_the_goal_leaves_time():
    found = sized("t4", sla_ms=1000.0)
    assert found.bounds.binds == COMPUTE
    assert found.bounds.images_per_s == found.bounds.compute == found.bounds.latency


def test_latency_binds_where_the_goal_allows_no_large_batch():
    found = sized("t4", sla_ms=13.0)
    assert found.bounds.binds == LATENCY
    assert found.bounds.batch < sized("t4", sla_ms=1000.0).bounds.batch
    assert 0 < found.bounds.latency < found.bounds.compute
    assert found.bounds.full_load_ms <= 13.0


def test_pcie_binds_where_frames_are_large():
    found = sized("t4", bytes_per_frame=100e6)
    assert found.bounds.binds == PCIE
    assert found.bounds.images_per_s == pytest.approx(0.8 * 15.75e9 / 100e6, rel=0.01)
    assert sized("l4", bytes_per_frame=100e6).bounds.pcie == pytest.approx(2 * found.bounds.pcie)


def test_memory_binds_where_the_weights_leave_little():
    # 70 % of 16 GB are planned with; one instance with its workspace of 1.1 GB leaves room for few frames.
    found = sized("t4", graph=graph_of(weight_mb=10_050.0))
    assert found.server.instances == 1
    assert found.bounds.binds == MEMORY
    assert 0 < found.bounds.memory < found.bounds.compute


def test_a_model_that_does_not_fit_meets_no_goal():
    found = sized("t4", graph=graph_of(weight_mb=17_000.0))
    assert (found.gpus, found.bounds.images_per_s) == (None, 0)
    assert "memory does not hold the model" in found.why_none


def test_two_versions_that_do_not_fit_at_once_are_told():
    found = sized("t4", graph=graph_of(weight_mb=7_500.0))
    assert found.gpus is not None
    assert found.why_none.startswith("two versions at once, as in a rollout, take ")


def test_a_goal_below_a_single_image_is_met_by_no_number():
    found = sized("a2", graph=graph_of(gflops=257.8), sla_ms=30.0)
    assert found.gpus is None
    assert found.bounds.binds == LATENCY
    assert found.why_none.startswith("a single image on an idle server takes 50.")
    assert found.why_none.endswith("the goal is 30 ms")


def test_a_goal_that_full_load_misses_is_left_to_the_simulation():
    alone_ms = sized("t4").bounds.alone_ms
    found = sized("t4", sla_ms=alone_ms * 1.2)
    assert found.bounds.batch == 1
    assert found.bounds.full_load_ms > alone_ms * 1.2
    assert found.gpus is not None


def test_by_hand_640_a_second_at_80_take_12():
    found = sized("t4", graph=None, kind={"images_per_s": 80.0})
    assert found.gpus == 12
    assert (found.bounds.binds, found.bounds.memory, found.gpus_range) == (COMPUTE, None, None)


def test_the_range_is_that_of_the_known_cases():
    on_t4, on_l4 = sized("t4", sla_ms=1000.0, streams=2000), sized("l4", sla_ms=1000.0, streams=2000)
    for found, shortest, longest in ((on_t4, 0.89, 1.09), (on_l4, 0.89, 1.23)):
        low, high = found.gpus_range
        assert low <= found.gpus <= high
        assert high <= found.gpus / shortest + 1
        assert low >= found.gpus / longest - 1
    assert on_l4.gpus_range[0] / on_l4.gpus < on_t4.gpus_range[0] / on_t4.gpus


SERVICE_S = {1: 0.003, 4: 0.008, 8: 0.014}


def test_a_report_bounds_the_throughput_by_what_was_reached():
    report = load_report(SERVICE_S)
    reached = max(point.throughput_images_per_s for point in report.points)
    found = sized("t4", graph=None, sla_ms=1000.0, kind={"report": report})
    assert found.bounds.compute == found.bounds.latency == pytest.approx(reached, rel=0.02)
    assert found.bounds.compute <= reached
    assert found.gpus_range is None


def test_the_goal_bounds_a_report_by_its_best_point_within():
    report = load_report(SERVICE_S)
    p99_ms = [point.latency_ms.p99 for point in report.points]
    found = sized("t4", graph=None, sla_ms=p99_ms[1] + 0.1, kind={"report": report})
    assert found.bounds.binds == LATENCY
    assert found.bounds.latency == report.points[1].throughput_images_per_s


def test_a_report_whose_single_requests_miss_the_goal_meets_it_with_no_number():
    report = load_report(SERVICE_S)
    assert report.points[0].load == ClosedLoop(concurrency=1)
    found = sized("t4", graph=None, sla_ms=report.points[0].latency_ms.p99 - 0.1, kind={"report": report})
    assert found.gpus is None
    assert "single image" in found.why_none


def test_a_reports_memory_is_used_where_there_is_no_graph():
    report = load_report(SERVICE_S, gpu_memory_bytes=11_000_000_000)
    found = sized("t4", graph=None, kind={"report": report})
    # 70 % of 16 GB less 11 GB, for two frames and answers of each stream at 10 frames a second.
    assert found.bounds.memory == int(0.2e9 // (2 * CONTRACT_BYTES)) * 10
    full = load_report(SERVICE_S, gpu_memory_bytes=12_000_000_000)
    assert sized("t4", graph=None, kind={"report": full}).gpus is None


def test_an_estimate_beside_a_report_is_one_more_known_case():
    found = sized("t4", kind={"report": load_report(SERVICE_S)})
    assert found.estimate_error is not None
    assert sized("t4", graph=None, kind={"report": load_report(SERVICE_S)}).estimate_error is None


def test_a_cpu_has_neither_bus_nor_gpu_memory():
    found = sized("cpu", graph=None, kind={"report": load_report({1: 0.02}, gpu=None)})
    assert (found.bounds.pcie, found.bounds.memory) == (None, None)
    assert found.gpus is not None


@settings(max_examples=25)
@given(st.integers(1, 500), st.floats(1, 60), st.floats(1, 3), st.floats(1, 2))
def test_gpus_grow_with_streams_rate_and_redundancy(streams, fps, redundancy, more):
    def gpus(**changes) -> int:
        return sized(
            "t4", **{"streams": streams, "fps": fps, "redundancy": redundancy, "sla_ms": 1000.0} | changes
        ).gpus

    needed = gpus()
    assert gpus(streams=round(streams * more) + 1) >= needed
    assert gpus(fps=fps * more) >= needed
    assert gpus(redundancy=redundancy * more) >= needed


@settings(max_examples=25)
@given(st.floats(5, 200), st.floats(1, 5), st.sampled_from(["t4", "l4", "a100-40gb", "h100-sxm"]))
def test_more_time_takes_no_more_gpus(sla_ms, more, gpu):
    tight, loose = sized(gpu, sla_ms=sla_ms), sized(gpu, sla_ms=sla_ms * more)
    assert tight.gpus is None or loose.gpus <= tight.gpus


def test_the_queue_refuses_what_leaves_no_time_to_be_computed():
    found = sized("t4")
    latest_s = found.batcher.timeout_s + found.server.full_load_s(found.bounds.batch) + found.server.overhead_s
    assert latest_s == pytest.approx(0.05)
    assert found.batcher.queue_limit >= found.bounds.batch


def test_a_largest_batch_is_kept():
    assert sized("t4", max_batch=2, sla_ms=1000.0).bounds.batch == 2
    assert sized("t4", max_batch=3, sla_ms=1000.0).bounds.batch == 3
