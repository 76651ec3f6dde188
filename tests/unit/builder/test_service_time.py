"""The estimate of a batch's time against what Ultralytics publishes, and its bounds."""

from __future__ import annotations

import dataclasses

import pytest
from ultralytics.models import YOLO

from builder.gpus import find_gpu
from builder.graph_cost import GraphCost, graph_cost
from builder.service_time import service_time_ms, traffic_time_ms
from builder.spec import BuildSpec
from builder.stages import Stages

# docs.ultralytics.com/compare/yolo11-vs-yolov8: GFLOPs an image at 640 px, milliseconds on a T4 by TensorRT 10 in FP16.
ON_T4 = {
    "yolo11n": (6.5, 1.5),
    "yolo11s": (21.5, 2.5),
    "yolo11m": (68.0, 4.7),
    "yolo11l": (86.9, 6.2),
    "yolo11x": (194.9, 11.3),
    "yolov8n": (8.7, 1.47),
    "yolov8s": (28.6, 2.66),
    "yolov8m": (78.9, 5.86),
    "yolov8l": (165.2, 9.06),
    "yolov8x": (257.8, 14.37),
}
# docs.ultralytics.com/models/yolov8: milliseconds on an A100 by TensorRT.
ON_A100 = {"yolov8n": 0.99, "yolov8s": 1.20, "yolov8m": 1.83, "yolov8l": 2.39, "yolov8x": 3.53}


def cost_of(gflops: float, **changes: object) -> GraphCost:
    cost = GraphCost(
        multiply_adds=round(gflops * 1e9 / 2),
        fp32_share=0.0,
        weight_bytes=0,
        layers=60,
        traffic_bytes=0,
        unsized_tensors=0,
        buffers=(),
    )
    return dataclasses.replace(cost, **changes)


@pytest.mark.parametrize("family", ON_T4)
def test_the_published_times_on_a_t4_are_met_within_11_percent(family):
    gflops, published_ms = ON_T4[family]
    assert service_time_ms(cost_of(gflops), find_gpu("t4"), 1) == pytest.approx(published_ms, rel=0.11)


@pytest.mark.parametrize("family", ["yolov8n", "yolo11n"])
def test_a_real_graph_has_the_published_gflops_and_time(family, tmp_path):
    weights = tmp_path / f"{family}.pt"
    YOLO(f"{family}.yaml").save(weights)
    asked = {"weights": weights, "precision": "fp32", "imgsz": 640, "cache": tmp_path}
    stages = Stages(spec=BuildSpec.from_sources(asked, None), weights=weights, report=lambda _: None)
    cost = graph_cost(stages.network().path)
    gflops, published_ms = ON_T4[family]
    assert cost.gflops == pytest.approx(gflops, rel=0.02)
    # The time is that of the graph in FP16, which has the same layers and half of the traffic.
    in_half = dataclasses.replace(cost, fp32_share=0.0, traffic_bytes=cost.traffic_bytes // 2)
    assert service_time_ms(in_half, find_gpu("t4"), 1) == pytest.approx(published_ms, rel=0.11)


@pytest.mark.parametrize("family", ON_A100)
def test_on_an_a100_the_estimate_is_too_long_by_7_to_23_percent(family):
    estimate = service_time_ms(cost_of(ON_T4[family][0]), find_gpu("a100-40gb"), 1)
    assert 1.07 <= estimate / ON_A100[family] <= 1.23


def test_a_batch_takes_longer_than_one_image_and_less_than_each_alone():
    t4, cost = find_gpu("t4"), cost_of(8.7)
    times = [service_time_ms(cost, t4, batch) for batch in (1, 2, 8, 64)]
    assert times == sorted(times)
    assert times[-1] < 64 * times[0]


def test_time_is_never_less_than_the_memory_takes():
    t4 = find_gpu("t4")
    heavy = cost_of(0.1, traffic_bytes=3_200_000_000)
    assert service_time_ms(heavy, t4, 1) == pytest.approx(10.0)
    assert service_time_ms(heavy, t4, 4) == pytest.approx(40.0)


def test_a_geforce_board_counts_with_fp32_accumulation():
    board = find_gpu("rtx-4090")
    halved = dataclasses.replace(board, fp16_accumulation=False, fp16_tflops=board.fp16_tflops / 2)
    assert service_time_ms(cost_of(100.0), board, 8) == service_time_ms(cost_of(100.0), halved, 8)


def test_nothing_is_said_of_a_gpu_whose_peak_is_not_known():
    assert service_time_ms(cost_of(8.7), find_gpu("rtx-4070"), 1) is None


def test_nothing_is_said_of_a_network_in_fp32():
    assert service_time_ms(cost_of(8.7, fp32_share=1.0), find_gpu("t4"), 1) is None
    # The attached head is in FP32 at every precision.
    assert service_time_ms(cost_of(8.7, fp32_share=0.01), find_gpu("t4"), 1) is not None


def test_what_the_memory_takes_is_known_apart():
    cost, l4 = cost_of(1.0, traffic_bytes=150_000_000), find_gpu("l4")
    assert traffic_time_ms(cost, l4, 1) == pytest.approx(0.5)
    assert service_time_ms(cost, l4, 1) > traffic_time_ms(cost, l4, 1)
    assert service_time_ms(cost, l4, 8) == traffic_time_ms(cost, l4, 8)
