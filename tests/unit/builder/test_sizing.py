"""Batch, instances and queue that are chosen for a GPU, on a graph whose cost is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from builder.artifacts import OnnxModel, TensorSpec
from builder.errors import MemoryBudgetError, SpecError
from builder.gpus import find_gpu
from builder.graph_cost import GraphCost
from builder.service_time import service_time_ms
from builder.serving import ServingRequest, ServingSettings
from builder.sizing import size

MODEL = OnnxModel(
    path=Path("model.onnx"),
    sha256="0" * 64,
    inputs=(TensorSpec(name="images", dtype="UINT8", shape=(640, 640, 3)),),
    outputs=(TensorSpec(name="detections", dtype="FP32", shape=(300, 6)),),
)


def cost(gflops: float = 6.5, weight_bytes: int = 5_000_000) -> GraphCost:
    return GraphCost(
        multiply_adds=int(gflops * 1e9 / 2),
        fp32_share=0.0,
        weight_bytes=weight_bytes,
        layers=90,
        traffic_bytes=100_000_000,
        unsized_tensors=0,
        buffers=(),
    )


def sized(gpu: str = "t4", *, graph: GraphCost | None = None, **request):
    return size(graph or cost(), MODEL, find_gpu(gpu), ServingRequest(**request))


def test_without_a_goal_the_defaults_are_taken() -> None:
    assert sized().settings == ServingSettings()
    assert sized().warnings == ()


@pytest.mark.parametrize("gpu", ["t4", "l4", "a10", "h100-sxm"])
def test_the_largest_batch_that_meets_the_goal_is_taken(gpu: str) -> None:
    chosen = sized(gpu, sla_ms=30)
    batch = chosen.settings.max_batch
    assert chosen.latency_ms is not None
    assert chosen.latency_ms <= 30
    assert chosen.warnings == ()
    twice = 0.5 + 2 * 2 * service_time_ms(cost(), find_gpu(gpu), 2 * batch)
    assert twice > 30 or batch == 64


def test_a_larger_gpu_takes_a_larger_batch() -> None:
    batches = [sized(gpu, sla_ms=20).settings.max_batch for gpu in ("a2", "t4", "a100-40gb")]
    assert batches == sorted(batches)
    assert batches[0] < batches[-1]


def test_a_request_waits_no_longer_than_the_goal_leaves_for_computing() -> None:
    chosen = sized(sla_ms=30)
    alone = chosen.service_time_ms
    assert alone is not None
    assert chosen.settings.queue_timeout_ms == int(30 - 2 * alone)
    served = chosen.settings.queue_timeout_ms * chosen.settings.max_batch / alone
    assert served <= chosen.settings.max_queue_size <= served + 1


def test_what_was_asked_for_is_not_changed() -> None:
    asked = {"max_batch": 3, "instances": 1, "max_queue_delay_us": 0, "max_queue_size": 9, "queue_timeout_ms": 7}
    assert sized(sla_ms=100, priority_levels=2, **asked).settings == ServingSettings(**asked, priority_levels=2)


def test_a_batch_that_misses_the_goal_is_kept_and_told() -> None:
    chosen = sized(max_batch=64, sla_ms=10)
    assert chosen.settings.max_batch == 64
    assert any("batches of 64 on 2 instances are estimated to take" in line for line in chosen.warnings)


def test_a_goal_that_no_batch_meets_gives_single_images_and_a_warning() -> None:
    chosen = sized("a2", graph=cost(gflops=250), sla_ms=5)
    assert chosen.settings.max_batch == 1
    assert any("--sla-ms is 5" in line for line in chosen.warnings)


def test_a_gpu_whose_peak_is_unknown_is_sized_by_memory_and_told() -> None:
    chosen = sized("rtx-4070", sla_ms=30)
    assert (chosen.service_time_ms, chosen.latency_ms) == (None, None)
    assert any("its peak FP16 is not known" in line for line in chosen.warnings)
    assert chosen.settings.max_batch == 8
    assert chosen.settings.queue_timeout_ms == 15


def test_an_fp32_network_is_not_said_to_lack_the_gpus_peak() -> None:
    chosen = sized("t4", graph=dataclasses.replace(cost(), fp32_share=1.0), sla_ms=30)
    assert any("the network is in FP32" in line for line in chosen.warnings)
    assert chosen.settings.max_batch == 8


@pytest.mark.parametrize(
    "queue", [{"queue_timeout_ms": 5000}, {"queue_timeout_ms": 0, "max_queue_size": 0}, {"queue_timeout_ms": 29}]
)
def test_a_queue_that_outlasts_the_goal_is_told(queue) -> None:
    assert any(
        "a request may wait" in line for line in sized(sla_ms=30, **{"max_queue_size": 1 << 20} | queue).warnings
    )


def test_a_queue_within_the_goal_is_not_warned_of() -> None:
    assert sized(sla_ms=30, queue_timeout_ms=10).warnings == ()
    assert sized(sla_ms=30, queue_timeout_ms=0, max_queue_size=32).warnings == ()


def test_a_workspace_that_is_cut_is_told() -> None:
    tight = sized(graph=cost(weight_bytes=7_800_000_000), instances=2, max_batch=1)
    assert any("MB of workspace in place of" in line for line in tight.warnings)


def test_one_instance_with_a_queue_policy_is_warned_of() -> None:
    assert any("lie for up to 500 ms" in line for line in sized(instances=1).warnings)
    assert sized(instances=1, max_queue_size=0, queue_timeout_ms=0).warnings == ()


def test_instances_and_batch_shrink_before_the_free_memory_does() -> None:
    heavy = cost(weight_bytes=2_500_000_000)
    chosen = sized("jetson-orin-nano-8gb", graph=heavy)
    assert chosen.settings.instances == 1
    assert chosen.budget.roomy


def test_what_cannot_fit_is_refused_with_what_would() -> None:
    with pytest.raises(MemoryBudgetError, match=r"t4: expected at most 16 GB.*the most that fits: --instances 3"):
        sized(graph=cost(weight_bytes=5_000_000_000), instances=4, max_batch=1)


def test_a_queue_below_the_batch_is_refused_unless_the_batch_is_free() -> None:
    with pytest.raises(SpecError, match="expected at least max_batch"):
        sized(max_batch=8, max_queue_size=4)
    assert sized(max_queue_size=4).settings.max_batch == 4
