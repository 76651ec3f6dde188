"""The GPU table: what it holds, and what a wrong name is told."""

import pytest

from builder.errors import SpecError
from builder.gpus import GpuTarget, find_gpu, known_gpus


def test_t4_has_its_datasheet_figures():
    assert find_gpu("t4") == GpuTarget(
        name="t4",
        compute_capability="7.5",
        memory_gb=16,
        bandwidth_gb_s=320,
        fp16_tflops=65,
        int8_tops=130,
        pcie_gen=3,
        watts=70,
    )


def test_every_gpu_in_the_table_is_found_or_named_as_unsupported():
    for name, gpu in known_gpus().items():
        if gpu.sm < (7, 5):
            with pytest.raises(SpecError, match=name):
                find_gpu(name)
        else:
            assert find_gpu(name) is gpu


def test_compute_capability_keeps_both_digits():
    assert find_gpu("b200").compute_capability == "10.0"
    assert find_gpu("b200").sm == (10, 0)
    assert find_gpu("rtx-5090").sm == (12, 0)


def test_case_and_surrounding_space_do_not_matter():
    assert find_gpu(" H100-SXM ") is find_gpu("h100-sxm")


def test_unconfirmed_figures_are_absent_not_guessed():
    assert find_gpu("rtx-3060").int8_tops is None
    assert find_gpu("jetson-thor").int8_tops is None


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("h100sxm", "h100-sxm"),
        ("rtx4090", "rtx-4090"),
        ("a100-80", "a100-80gb"),
        ("L40", "l40s"),
        ("a100", "a100-40gb or a100-80gb"),
        ("NVIDIA GeForce RTX 4090 Ti", "rtx-4090"),
        ("NVIDIA A10G", "a10"),
        ("a100:1g.5gb", "a100-40gb or a100-80gb"),
    ],
)
def test_unknown_gpu_is_told_the_nearest_name_and_the_known_ones(wrong, nearest):
    with pytest.raises(SpecError) as caught:
        find_gpu(wrong)
    message = str(caught.value)
    assert repr(wrong) in message
    assert f"did you mean {nearest}?" in message
    assert "t4, a2, a10" in message
    assert "\n" not in message


@pytest.mark.parametrize("wrong", ["", "gibberish", "../gpus"])
def test_a_name_that_resembles_nothing_gets_no_guess(wrong):
    with pytest.raises(SpecError) as caught:
        find_gpu(wrong)
    assert "did you mean" not in str(caught.value)
    assert "t4" in str(caught.value)


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "a100-40gb-1g.5gb"),
    ],
)
def test_a_name_that_the_driver_prints_is_accepted(driver_name, name):
    assert find_gpu(driver_name).name == name


def test_no_two_gpus_have_one_driver_name():
    names = [each.lower() for gpu in known_gpus().values() for each in gpu.device_names]
    assert len(names) == len(set(names))
    assert not any(name.startswith("nvidia") for name in names)


def test_geforce_figures_say_that_they_accumulate_in_fp16():
    flagged = {name for name, gpu in known_gpus().items() if gpu.fp16_accumulation}
    assert flagged == {"rtx-3060", "rtx-3090", "rtx-4070", "rtx-4090", "rtx-5090"}
    assert find_gpu("rtx-4090").fp16_tflops_accumulating_fp32 == 165
    assert find_gpu("l4").fp16_tflops_accumulating_fp32 == find_gpu("l4").fp16_tflops == 121
    assert find_gpu("rtx-5090").fp16_tflops_accumulating_fp32 is None


def test_a_gpu_below_tensorrts_floor_is_refused_with_the_reason():
    with pytest.raises(SpecError, match=r"jetson-agx-xavier has compute capability 7\.2.*TensorRT supports 7\.5"):
        find_gpu("jetson-agx-xavier")


@pytest.mark.parametrize(
    ("field", "figure"),
    [
        ("compute_capability", 10.0),
        ("compute_capability", "sm_75"),
        ("memory_gb", None),
        ("watts", -1),
        ("pcie_gen", "4"),
        ("pcie_gen", 3.5),
        ("memory_gb", True),
        ("mig_instances", 0),
        ("fp16_accumulation", "yes"),
        ("name", "../t4"),
        ("name", "a100-40gb:1g.5gb"),
    ],
)
def test_a_wrong_figure_in_the_table_is_refused(field, figure):
    good = {"name": "x", "compute_capability": "7.5", "memory_gb": 1, "bandwidth_gb_s": 1}
    with pytest.raises(ValueError, match=field):
        GpuTarget(**{**good, field: figure})
