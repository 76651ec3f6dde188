"""The formulas of sizing by their worked examples.

The workspace's is held by tests/unit/builder/test_memory.py, what 30 % free means too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.capacity.bounds import Graph
from benchmarks.capacity.formulas import (
    BUS_SHARE,
    bus_bytes_per_s,
    gpus_needed,
    images_per_s_by_bus,
    price_per_stream_month,
    transfer_s,
    worked_out,
)
from benchmarks.capacity.request import CONTRACT_BYTES
from builder.artifacts import OnnxModel, TensorSpec
from builder.buffers import Buffer
from builder.gpus import find_gpu, known_gpus
from builder.graph_cost import GraphCost
from builder.memory import memory_budget
from builder.service_time import service_time_ms

rates = st.floats(0.01, 1e6)


def model_of(dtype: str, *shape: int) -> OnnxModel:
    return OnnxModel(
        path=Path("m"), sha256="", inputs=(TensorSpec(name="images", dtype=dtype, shape=shape),), outputs=()
    )


def cost_of(gflops: float, weight_bytes: int = 0, activation_bytes: int = 0) -> GraphCost:
    return GraphCost(
        multiply_adds=round(gflops * 1e9 / 2),
        fp32_share=0.0,
        weight_bytes=weight_bytes,
        layers=0,
        traffic_bytes=0,
        unsized_tensors=0,
        buffers=(Buffer(first_step=0, last_step=1, bytes_fixed=0, bytes_per_image=activation_bytes),),
    )


def test_640_requests_a_second_at_80_a_gpu_take_12():
    assert gpus_needed(640, 80, 1.5) == 12
    assert worked_out(640, 80, 1.5) == "ceil(640 / 80 x 1.5) = 12"
    assert worked_out(1_500_000, 22_300.4, 1.5) == "ceil(1,500,000 / 22,300 x 1.5) = 101"
    assert worked_out(0.5, 0.125, 2) == "ceil(0.5 / 0.125 x 2) = 8"


@pytest.mark.parametrize(
    ("rate", "of_one", "redundancy", "expected"),
    [(641, 80, 1.5, 13), (640, 80, 1.0, 8), (1, 1000, 1.5, 1), (0.3, 0.1, 1.0, 3), (1.1, 1.0, 3.0, 4)],
)
def test_what_is_left_over_takes_one_more_and_rounding_takes_none(rate, of_one, redundancy, expected):
    assert gpus_needed(rate, of_one, redundancy) == expected


@given(rates, rates, st.floats(1, 10), st.floats(1, 3))
def test_more_load_and_more_redundancy_take_no_fewer_and_more_throughput_no_more(rate, of_one, redundancy, more):
    needed = gpus_needed(rate, of_one, redundancy)
    assert gpus_needed(rate * more, of_one, redundancy) >= needed
    assert gpus_needed(rate, of_one, redundancy * more) >= needed
    assert gpus_needed(rate, of_one * more, redundancy) <= needed
    assert needed * of_one >= rate * redundancy * (1 - 1e-9)


@pytest.mark.parametrize("values", [(0, 80, 1.5), (640, 0, 1.5), (640, 80, 0), (-1, 80, 1.5)])
def test_numbers_that_are_none_above_0_are_refused(values):
    with pytest.raises(ValueError, match="above 0"):
        gpus_needed(*values)


def test_the_worked_example_of_a_budget_yolov8s_in_fp16_at_batch_8():
    # 14.4 MB of weights, 19.7 of inputs, about 310 of activations and a workspace of 1024, which is 1.36 GB.
    cost = cost_of(28.6, weight_bytes=14_400_000, activation_bytes=310_000_000 // 8 // 256 * 256)
    budget = memory_budget(cost, model_of("FP16", 3, 640, 640), find_gpu("t4"), batch=8, instances=1)
    assert budget.input_bytes == 8 * 3 * 640 * 640 * 2
    assert budget.input_bytes == pytest.approx(19.7e6, rel=0.005)
    with_its_workspace = budget.total_bytes - budget.workspace_bytes + 1_024_000_000
    assert with_its_workspace == pytest.approx(1.36e9, rel=0.01)


def test_a_640_engine_that_is_fed_320_leaves_three_quarters_of_its_memory_idle():
    # The source says 78 %; by the pixels, and so by every tensor of the network, it is 75.
    frames = [Graph(model=model_of("UINT8", side, side, 3), cost=cost_of(1)).frame_bytes for side in (640, 320)]
    assert 1 - frames[1] / frames[0] == pytest.approx(0.75)


def test_the_graphs_own_frame_is_the_contracts():
    model = OnnxModel(
        path=Path("m"),
        sha256="",
        inputs=(TensorSpec(name="images", dtype="UINT8", shape=(640, 640, 3)),),
        outputs=(TensorSpec(name="detections", dtype="FP32", shape=(300, 6)),),
    )
    assert Graph(model=model, cost=cost_of(1)).frame_bytes == CONTRACT_BYTES == 1_236_000


@pytest.mark.parametrize(
    ("gpu", "gb_per_s"),
    # PCI-SIG: 15.75 GB/s for 16 lanes of generation 3, twice that for each later one.
    [("t4", 15.75), ("l4", 31.5), ("a2", 15.75), ("h100-sxm", 63.0), ("a100-40gb:1g.5gb", 4.5), ("jetson-thor", None)],
)
def test_a_bus_has_what_its_generation_and_lanes_give(gpu, gb_per_s):
    carried = bus_bytes_per_s(find_gpu(gpu))
    assert carried is None if gb_per_s is None else carried == pytest.approx(gb_per_s * 1e9, rel=1e-3)


def test_every_generation_of_the_table_is_known():
    for gpu in known_gpus().values():
        assert (bus_bytes_per_s(gpu) is None) == (gpu.pcie_gen is None)


def test_a_bus_is_planned_up_to_80_percent():
    t4 = find_gpu("t4")
    frames_per_s = images_per_s_by_bus(t4, CONTRACT_BYTES)
    assert frames_per_s * CONTRACT_BYTES == pytest.approx(BUS_SHARE * bus_bytes_per_s(t4))
    assert transfer_s(t4, CONTRACT_BYTES, 8) == pytest.approx(8 / frames_per_s)
    assert transfer_s(find_gpu("jetson-thor"), CONTRACT_BYTES, 8) == 0


def test_transfers_are_much_of_a_raw_heads_time_on_a_t4_and_little_of_the_contracts():
    # YOLOv5s, 16.5 GFLOPs: FP32 pixels in, 25200 rows of 85 FP32 out; 43 % of its latency were seen to be transfers.
    t4 = find_gpu("t4")
    computing_s = service_time_ms(cost_of(16.5), t4, 1) / 1e3
    raw_s = transfer_s(t4, 3 * 640 * 640 * 4 + 25200 * 85 * 4, 1)
    assert 0.3 < raw_s / (raw_s + computing_s) < 0.5
    contract_s = transfer_s(t4, CONTRACT_BYTES, 1)
    assert contract_s / (contract_s + computing_s) < 0.06


def test_a_stream_costs_its_share_of_the_gpus_and_a_month():
    assert price_per_stream_month(0.35, 12, 64) == pytest.approx(0.35 * 12 * 730 / 64)
