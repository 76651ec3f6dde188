"""Which GPUs may share a plan, and what a fleet is told of it."""

from __future__ import annotations

import json

import pytest

from builder.engine import HardwareCompatibility, Profile
from builder.errors import SpecError
from builder.gpus import find_gpu
from builder.plans import PlanRecord, check_fleet, plan_file, shared_plans

NONE, SAME = HardwareCompatibility.NONE, HardwareCompatibility.SAME_COMPUTE_CAPABILITY
AMPERE_PLUS = HardwareCompatibility.AMPERE_PLUS


def gpus(*names: str):
    return [find_gpu(name) for name in names]


def test_each_compute_capability_has_a_plan_of_its_own() -> None:
    assert [plan_file(gpu, NONE) for gpu in gpus("t4", "l4", "rtx-5090")] == [
        "model_sm75.plan",
        "model_sm89.plan",
        "model_sm120.plan",
    ]


def test_a_gpu_that_is_named_twice_is_one() -> None:
    assert [gpu.name for gpu in check_fleet(gpus("t4", "T4", "Tesla T4", "l4"), NONE)] == ["t4", "l4"]


@pytest.mark.parametrize("pair", [("a10", "a2"), ("l4", "l40s"), ("a100-40gb", "a100-40gb:1g.5gb")])
def test_two_gpus_of_one_compute_capability_are_refused_with_the_way_out(pair) -> None:
    one, other = gpus(*pair)
    with pytest.raises(SpecError) as caught:
        check_fleet([one, other], NONE)
    message = str(caught.value)
    assert message.startswith(f"{one.name} and {other.name} are both of compute capability {one.compute_capability}")
    assert "--hardware-compatibility same_compute_capability" in message


def test_two_gpus_share_a_plan_that_is_built_for_both_and_it_is_said() -> None:
    fleet = check_fleet(gpus("a10", "a2", "t4"), SAME)
    assert shared_plans(fleet, SAME) == ["a10 and a2 share model_sm86.plan, built for same_compute_capability"]
    assert shared_plans(check_fleet(gpus("a10", "t4"), NONE), NONE) == []


def test_ampere_and_newer_share_one_plan_and_turing_does_not() -> None:
    fleet = check_fleet(gpus("t4", "a10", "l4", "h100-sxm"), AMPERE_PLUS)
    assert {gpu.name: plan_file(gpu, AMPERE_PLUS) for gpu in fleet} == {
        "t4": "model_sm75.plan",
        "a10": "model_ampere_plus.plan",
        "l4": "model_ampere_plus.plan",
        "h100-sxm": "model_ampere_plus.plan",
    }


def test_ampere_plus_without_such_a_gpu_is_refused() -> None:
    with pytest.raises(SpecError, match=r"expected a GPU of compute capability 8.0 or higher, got t4 \(7.5\)"):
        check_fleet(gpus("t4"), AMPERE_PLUS)


def test_a_record_is_read_back_as_it_was_written() -> None:
    record = PlanRecord(
        file="model_sm75.plan",
        compute_capability="7.5",
        gpus=("t4",),
        graph_sha256="0" * 64,
        library="tensorrt",
        version="10.13.3.9",
        hardware_compatibility="none",
        profiles=(Profile(batch_max=8, batch_opt=8), Profile(imgsz=(320, 640))),
        workspace_bytes=1 << 30,
        device_memory_bytes=None,
        device="Tesla T4",
        driver=None,
        triton="25.09",
    )
    assert PlanRecord.from_json(json.loads(json.dumps(record.to_json()))) == record
