"""MIG slices as targets: their names, their shares, and what a wrong profile is told."""

from fractions import Fraction

import pytest

from builder.errors import SpecError
from builder.gpus import GpuTarget, find_gpu, known_gpus, mig_slices
from builder.mig import MigProfile, profiles_from
from builder.repository import CONFIG_PATH

CUTTABLE = [gpu for gpu in known_gpus().values() if gpu.mig_profiles]


def test_a_slice_has_its_share_of_memory_and_compute():
    assert find_gpu("a100-40gb:1g.5gb") == GpuTarget(
        name="a100-40gb-1g.5gb",
        compute_capability="8.0",
        memory_gb=5,
        bandwidth_gb_s=194.375,
        fp16_tflops=44.571,
        int8_tops=89.143,
        pcie_gen=4,
        slice_of="a100-40gb",
        mig_profile="1g.5gb",
    )


def test_a_slice_with_twice_the_memory_has_no_more_compute():
    small, large = find_gpu("h100-sxm:1g.10gb"), find_gpu("h100-sxm:1g.20gb")
    assert large.memory_gb == 2 * small.memory_gb
    assert large.fp16_tflops == small.fp16_tflops


@pytest.mark.parametrize(
    ("gpu", "instances"),
    [
        *[(name, 7) for name in ("a100-40gb", "a100-80gb", "h100-sxm", "h100-pcie", "h200", "b200")],
        *[("a30", 4), ("rtx-pro-6000", 4), ("jetson-thor", 2)],
        *[(name, None) for name in ("t4", "l40s", "rtx-5090", "jetson-agx-orin-64gb")],
    ],
)
def test_how_many_slices_a_gpu_can_be_cut_into(gpu, instances):
    assert find_gpu(gpu).mig_instances == instances


@pytest.mark.parametrize("gpu", CUTTABLE, ids=lambda gpu: gpu.name)
def test_shares_agree_with_the_profiles_names(gpu):
    """``3g.71gb`` of an H200 has three of seven compute slices, and 71 GB of its 141, rounded."""
    whole = max(int(profile.name[0]) for profile in gpu.mig_profiles)
    assert whole == gpu.mig_instances
    for profile in gpu.mig_profiles:
        compute, _, memory = profile.name.removesuffix("gb").partition("g.")
        assert profile.compute == Fraction(int(compute), whole)
        assert abs(gpu.memory_gb * profile.memory - int(memory)) <= 0.5
        assert profile.instances * profile.memory <= 1
        assert profile.instances * profile.compute <= 1


@pytest.mark.parametrize("name", mig_slices())
def test_a_slice_is_found_by_both_its_names_and_is_good_as_a_file_name(name):
    target = find_gpu(name)
    assert find_gpu(target.name.upper()) is find_gpu(f" {name} ") is target
    assert CONFIG_PATH.fullmatch(f"configs/{target.name}.pbtxt")
    assert target.compute_capability == find_gpu(target.slice_of).compute_capability
    assert target.watts is None
    assert target.mig_instances is None


@pytest.mark.parametrize("wrong", ["a100-40gb:9g.5gb", "a100-40gb:", "a100-40gb:1g.5gb+me", "a100-40gb:3g.40gb"])
def test_an_unknown_profile_is_told_the_known_ones(wrong):
    with pytest.raises(SpecError) as caught:
        find_gpu(wrong)
    message = str(caught.value)
    assert repr(wrong.partition(":")[2]) in message
    for profile in find_gpu("a100-40gb").mig_profiles:
        assert f"a100-40gb:{profile.name}" in message


def test_a_gpu_without_mig_is_told_which_ones_have_it():
    with pytest.raises(SpecError, match=r"t4 cannot be cut by MIG; expected t4 itself.*a30, a100-40gb, .*rtx-pro-6000"):
        find_gpu("t4:1g.5gb")


def test_slices_without_a_share_of_memory_are_no_targets():
    with pytest.raises(SpecError, match="jetson-thor share the processor's memory"):
        find_gpu("jetson-thor:1g.0gb")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("1g.5gb", ["1/8", "1/7"]),
        ("1g.5gb", ["1/8", "1/7", "7"]),
        ("1g.5gb", ["9/8", "1/7", 7]),
        ("1g.5gb", ["0/8", "1/7", 7]),
        ("1g.5gb", ["1/8", "1/7", 0]),
        ("1g.5gb", ["1/8", "1/7", True]),
        ("1g.5gb+me", ["1/8", "1/7", 1]),
        ("5gb", ["1/8", "1/7", 7]),
    ],
)
def test_a_wrong_row_of_profiles_is_refused(name, row):
    with pytest.raises(ValueError, match="5gb"):
        profiles_from({name: row})


def test_more_slices_than_the_profiles_give_are_refused():
    profile = MigProfile(name="1g.5gb", memory=Fraction(1, 8), compute=Fraction(1, 7), instances=7)
    with pytest.raises(ValueError, match="expected mig_instances 7"):
        GpuTarget(
            name="x",
            compute_capability="8.0",
            memory_gb=40,
            bandwidth_gb_s=1,
            mig_instances=4,
            mig_profiles=(profile,),
        )
