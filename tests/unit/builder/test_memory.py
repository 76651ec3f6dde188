"""The memory budget: its parts, what fits, and what a refusal says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from builder.artifacts import OnnxModel, TensorSpec
from builder.buffers import Buffer
from builder.errors import BuilderError, MemoryBudgetError
from builder.gpus import find_gpu
from builder.graph_cost import GraphCost
from builder.memory import (
    KEPT_FREE,
    MemoryBudget,
    check_engine_fits,
    check_fits,
    engine_difference,
    memory_budget,
    planned_instances,
    with_engine,
    workspace_bytes,
)

T4 = find_gpu("t4")
MODEL = OnnxModel(
    path=Path("model.onnx"),
    sha256="",
    inputs=(TensorSpec(name="images", dtype="UINT8", shape=(640, 640, 3)),),
    outputs=(TensorSpec(name="detections", dtype="FP32", shape=(300, 6)),),
)


def cost_of(activation_mb: float = 20.0, weight_mb: float = 10.0, layers: int = 100) -> GraphCost:
    """``activation_mb`` an image."""
    size = round(activation_mb * 1e6) // 256 * 256
    return GraphCost(
        multiply_adds=4_000_000_000,
        fp32_share=0.0,
        weight_bytes=round(weight_mb * 1e6),
        layers=layers,
        traffic_bytes=0,
        unsized_tensors=0,
        buffers=(Buffer(first_step=0, last_step=1, bytes_fixed=0, bytes_per_image=size),),
    )


@pytest.mark.parametrize(
    ("layers", "batch", "expected"),
    [(0, 1, 1.0e9), (100, 8, 1.15e9), (100, 9, 1.495e9), (152, 16, 1.5964e9), (152, 8, 1.228e9)],
)
def test_the_workspace_follows_the_formula(layers, batch, expected):
    assert workspace_bytes(layers, batch) == pytest.approx(expected, abs=1)


def test_the_workspace_is_capped_by_what_is_left():
    assert workspace_bytes(100, 8, 200_000_000) == 200_000_000
    assert workspace_bytes(100, 8, 10**12) == workspace_bytes(100, 8)
    assert workspace_bytes(100, 8, -5) == 0


def test_the_parts_are_of_one_instance_and_the_total_of_all():
    budget = memory_budget(cost_of(), MODEL, T4, batch=8, instances=2)
    assert budget.input_bytes == 8 * 640 * 640 * 3
    assert budget.output_bytes == 8 * 300 * 6 * 4
    assert budget.weight_bytes == 10_000_000
    assert budget.activation_bytes == 8 * (20_000_000 // 256 * 256)
    assert budget.workspace_bytes == 1_150_000_000
    assert budget.capacity_bytes == 16_000_000_000
    parts = (budget.input_bytes, budget.output_bytes, budget.weight_bytes, budget.activation_bytes)
    assert budget.total_bytes == 2 * (sum(parts) + budget.workspace_bytes)
    assert budget.free_bytes == budget.capacity_bytes - budget.total_bytes
    assert budget.fits
    assert budget.roomy
    assert budget.source == "estimated"


@pytest.mark.parametrize(("dtype", "size"), [("UINT8", 1), ("FP16", 2), ("FP32", 4), ("INT64", 8), ("BOOL", 1)])
def test_elements_have_the_size_of_their_type(dtype, size):
    model = OnnxModel(path=Path("m"), sha256="", inputs=(TensorSpec(name="x", dtype=dtype, shape=(10,)),), outputs=())
    assert memory_budget(cost_of(), model, T4, batch=3, instances=1).input_bytes == 30 * size


def test_the_workspace_takes_what_the_rest_leaves_and_is_shared_by_the_instances():
    budget = memory_budget(cost_of(activation_mb=700), MODEL, T4, batch=10, instances=2)
    assert 0 < budget.workspace_bytes < 1_000_000_000
    assert 0 <= budget.free_bytes < 2
    assert budget.fits
    assert not budget.roomy


def test_less_than_thirty_percent_free_is_not_roomy():
    budget = memory_budget(cost_of(), MODEL, T4, batch=8, instances=planned_instances(cost_of(), MODEL, T4, 8))
    assert budget.roomy
    more = memory_budget(cost_of(), MODEL, T4, batch=8, instances=budget.instances + 1)
    assert not more.roomy
    assert more.free_share < KEPT_FREE


def test_a_mig_slice_has_its_share_of_the_memory():
    piece = find_gpu("a100-40gb:1g.5gb")
    assert memory_budget(cost_of(), MODEL, piece, batch=1, instances=1).capacity_bytes == 5_000_000_000


def fits(cost: GraphCost, batch: int, instances: int) -> bool:
    try:
        check_fits(cost, MODEL, T4, batch=batch, instances=instances)
    except MemoryBudgetError:
        return False
    return True


def test_what_fits_is_handed_on():
    assert check_fits(cost_of(), MODEL, T4, batch=8, instances=2) == memory_budget(
        cost_of(), MODEL, T4, batch=8, instances=2
    )


def test_a_refusal_names_the_largest_batch_and_the_most_instances_that_fit():
    cost = cost_of(activation_mb=500)
    with pytest.raises(MemoryBudgetError, match=r"expected at most 16 GB, got \d+\.\d\d GB") as caught:
        check_fits(cost, MODEL, T4, batch=24, instances=2)
    found = re.search(r"--max-batch (\d+) with 2 instances, or --instances (\d+) with a batch of 24", str(caught.value))
    batch, instances = map(int, found.groups())
    assert fits(cost, batch, 2)
    assert not fits(cost, batch + 1, 2)
    assert fits(cost, 24, instances)
    assert not fits(cost, 24, instances + 1)


def test_a_refusal_names_both_where_neither_alone_helps():
    cost = cost_of(activation_mb=9_000)
    with pytest.raises(MemoryBudgetError, match="the most that fits: --max-batch 1 --instances 1") as caught:
        check_fits(cost, MODEL, T4, batch=2, instances=2)
    assert isinstance(caught.value, BuilderError)
    assert caught.value.exit_code == 1


def test_a_refusal_says_where_not_even_one_image_fits():
    with pytest.raises(MemoryBudgetError, match="not even one image fits"):
        check_fits(cost_of(activation_mb=17_000), MODEL, T4, batch=1, instances=1)


def test_the_engines_figure_replaces_activations_and_workspace():
    estimate = memory_budget(cost_of(), MODEL, T4, batch=8, instances=2)
    engine = with_engine(estimate, 200_000_000)
    assert (engine.source, engine.activation_bytes, engine.workspace_bytes) == ("engine", 200_000_000, 0)
    assert engine.instance_bytes == 210_000_000 + engine.input_bytes + engine.output_bytes
    line = engine_difference(estimate, engine)
    assert "200.0 MB" in line
    assert "160.0 MB of activations (-20%)" in line
    assert "1,150.0 MB of workspace" in line


def test_an_engine_that_takes_nothing_is_compared_without_a_ratio():
    estimate = memory_budget(cost_of(), MODEL, T4, batch=8, instances=2)
    assert "0.0 MB" in engine_difference(estimate, with_engine(estimate, 0))


def test_a_budget_survives_json():
    budget = with_engine(memory_budget(cost_of(), MODEL, T4, batch=8, instances=2), 5)
    told = json.loads(json.dumps(budget.to_json()))
    assert MemoryBudget.from_json(told) == budget
    assert told["total_bytes"] == budget.total_bytes
    assert told["fits"] is True


def test_instances_that_the_compiled_engine_does_not_fit_are_refused_with_how_many_do() -> None:
    gpu = find_gpu("t4")
    budget = MemoryBudget(
        weight_bytes=0,
        input_bytes=0,
        output_bytes=0,
        activation_bytes=865 * 10**6,
        workspace_bytes=0,
        batch=22,
        instances=16,
        capacity_bytes=16 * 10**9,
    )
    check_engine_fits(budget, 1000 * 10**6, gpu)
    with pytest.raises(MemoryBudgetError, match=r"got 18\.43 GB .* engine takes 1152 MB .* --instances 13"):
        check_engine_fits(budget, 1152 * 10**6, gpu)
