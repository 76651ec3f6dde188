"""``--gpu auto``: which target the machine's GPU is, from what its driver says.

No machine that tests run on has every GPU, so a fake NVML, owned here, stands for the driver. What it answers follows
nvidia-smi's output on real boards; that its functions exist in the real module is a test of its own.
"""
# ruff: noqa: N802, N818

import argparse
import json
import sys
from types import SimpleNamespace

import pytest

from builder import gpus_command
from builder.errors import SpecError
from builder.gpus import find_gpu, known_gpus
from builder.nvml import GpuGauge, GpuUse, NoGpuError, NvmlDevice, read_devices

MIB = 1 << 20


class NVMLError(Exception):
    pass


class NVMLErrorNotSupported(NVMLError):
    pass


class NVMLErrorNotFound(NVMLError):
    pass


class NVMLErrorInvalidArgument(NVMLError):
    pass


class NVMLErrorFunctionNotFound(NVMLError):
    pass


class FakeNvml:
    """The part of nvidia-ml-py's ``pynvml`` that is used, for boards given as dictionaries."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLErrorNotSupported
    NVMLError_NotFound = NVMLErrorNotFound
    NVMLError_InvalidArgument = NVMLErrorInvalidArgument
    NVMLError_FunctionNotFound = NVMLErrorFunctionNotFound
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, *boards, no_driver=None):
        self.boards = boards
        self.no_driver = no_driver
        self.running = 0

    def nvmlInit(self):
        if self.no_driver:
            raise NVMLError(self.no_driver)
        self.running += 1

    def nvmlShutdown(self):
        self.running -= 1

    def nvmlDeviceGetCount(self):
        assert self.running
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.boards[index]

    def nvmlDeviceGetName(self, handle):
        return handle["name"]

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        if "sm" not in handle:
            raise NVMLError("GPU is lost")
        return handle["sm"]

    def nvmlDeviceGetMemoryInfo(self, handle):
        if handle.get("mib") is None:
            raise NVMLErrorNotSupported("Not Supported")
        return SimpleNamespace(total=handle["mib"] * MIB, free=(handle["mib"] - 512) * MIB, used=512 * MIB)

    def nvmlDeviceGetUtilizationRates(self, handle):
        if "busy" not in handle:
            raise NVMLErrorNotSupported("Not Supported")
        return SimpleNamespace(gpu=handle["busy"], memory=0)

    def nvmlSystemGetDriverVersion(self):
        return "580.65.06"

    def nvmlDeviceGetMigMode(self, handle):
        if "slices" not in handle:
            raise NVMLErrorNotSupported("Not Supported")
        return (int(handle["slices"] is not None), 0)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):
        if index >= len(handle["slices"]) or handle["slices"][index] is None:
            raise NVMLErrorNotFound("Not Found")
        return handle["slices"][index]


@pytest.fixture
def machine(monkeypatch):
    def with_boards(*boards, **kwargs):
        nvml = FakeNvml(*boards, **kwargs)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return with_boards


def board(name, sm, mib, **more):
    return {"name": name, "sm": sm, "mib": mib, **more}


T4 = board("Tesla T4", (7, 5), 15360)
L4 = board("NVIDIA L4", (8, 9), 23034)


def a100(*profiles):
    name = "NVIDIA A100-SXM4-40GB"
    slices = [profile and {"name": f"{name} MIG {profile[0]}", "mib": profile[1]} for profile in profiles]
    return board(name, (8, 0), 40960, slices=slices)


def test_the_fake_has_only_what_the_real_module_has():
    real = pytest.importorskip("pynvml")
    used = [name for name in dir(FakeNvml) if name.lower().startswith("nvml")]
    assert len(used) > 10
    assert [name for name in used if not hasattr(real, name)] == []
    assert real.NVML_DEVICE_MIG_ENABLE == FakeNvml.NVML_DEVICE_MIG_ENABLE
    for name in used:
        if name.startswith("NVMLError_"):
            assert issubclass(getattr(real, name), real.NVMLError)


@pytest.mark.parametrize(
    ("name", "driver_says"),
    [
        ("t4", T4),
        ("t4", board(b"Tesla T4", (7, 5), 15109)),
        ("a2", board("NVIDIA A2", (8, 6), 15356)),
        ("a10", board("NVIDIA A10", (8, 6), 23028)),
        ("a30", board("NVIDIA A30", (8, 0), 24576, slices=None)),
        ("a40", board("NVIDIA A40", (8, 6), 46068)),
        ("a100-40gb", board("NVIDIA A100-SXM4-40GB", (8, 0), 40960, slices=None)),
        ("a100-40gb", board("A100-PCIE-40GB", (8, 0), 40536, slices=None)),
        ("a100-80gb", board("NVIDIA A100-SXM4-80GB", (8, 0), 81920, slices=None)),
        ("a100-80gb", board("NVIDIA A100 80GB PCIe", (8, 0), 81920, slices=None)),
        ("l4", L4),
        ("l40s", board("NVIDIA L40S", (8, 9), 46068)),
        ("h100-sxm", board("NVIDIA H100 80GB HBM3", (9, 0), 81559, slices=None)),
        ("h100-pcie", board("NVIDIA H100 PCIe", (9, 0), 81559, slices=None)),
        ("h200", board("NVIDIA H200", (9, 0), 143771, slices=None)),
        ("b200", board("NVIDIA B200", (10, 0), 183359, slices=None)),
        ("rtx-3060", board("NVIDIA GeForce RTX 3060", (8, 6), 12288)),
        ("rtx-3090", board("NVIDIA GeForce RTX 3090", (8, 6), 24576)),
        ("rtx-4070", board("NVIDIA GeForce RTX 4070", (8, 9), 12282)),
        ("rtx-4090", board("NVIDIA GeForce RTX 4090", (8, 9), 24564)),
        ("rtx-5090", board("NVIDIA GeForce RTX 5090", (12, 0), 32607)),
        ("rtx-pro-6000", board("NVIDIA RTX PRO 6000 Blackwell Server Edition", (12, 0), 97887, slices=None)),
    ],
)
def test_a_board_is_known_by_its_drivers_name(machine, name, driver_says):
    nvml = machine(driver_says)
    assert find_gpu("auto") is find_gpu(name)
    assert nvml.running == 0


def test_every_board_with_a_driver_name_is_told_by_it(machine):
    for gpu in known_gpus().values():
        for driver_name in gpu.device_names:
            machine(board(f"NVIDIA {driver_name}", gpu.sm, None))
            assert find_gpu("AUTO") is gpu


def test_equal_boards_are_one_target(machine):
    machine(L4, L4, L4, L4)
    assert find_gpu("auto").name == "l4"


def test_different_boards_are_listed_and_none_is_chosen(machine):
    machine(T4, L4, T4)
    with pytest.raises(SpecError, match="this machine has t4 and l4; name the ones to build for"):
        find_gpu("auto")


@pytest.mark.parametrize(("profile", "mib"), [("1g.5gb", 4864), ("1g.5gb+me", 4864), ("3g.20gb", 19968)])
def test_a_gpu_in_mig_mode_is_its_slice(machine, profile, mib):
    machine(a100(None, (profile, mib), None, (profile, mib)))
    assert find_gpu("auto") is find_gpu(f"a100-40gb:{profile.removesuffix('+me')}")


def test_slices_of_different_size_are_listed(machine):
    machine(a100(("3g.20gb", 19968), ("1g.5gb", 4864)))
    with pytest.raises(SpecError, match=r"a100-40gb-3g\.20gb and a100-40gb-1g\.5gb"):
        find_gpu("auto")


def test_mig_mode_without_a_slice_says_so(machine):
    machine(a100())
    with pytest.raises(SpecError, match=r"is in MIG mode and has no slice.*; name the GPU that will serve: t4, "):
        find_gpu("auto")


def test_part_of_a_slice_is_not_taken_for_the_slice(machine):
    machine(a100(("1c.3g.20gb", 19968)))
    with pytest.raises(SpecError, match=r"MIG 1c\.3g\.20gb .* is not in the table, nearest: a100-40gb"):
        find_gpu("auto")


@pytest.mark.parametrize(
    ("driver_says", "nearest"),
    [
        (board("NVIDIA A10G", (8, 6), 23028), "a10"),
        (board("NVIDIA H100 NVL", (9, 0), 95830), "h100"),
        (board("GRID T4-16Q", (7, 5), 16384), None),
        (board("Orin (nvgpu)", (8, 7), None), None),
    ],
)
def test_a_board_that_the_table_lacks_is_named_with_the_known_ones(machine, driver_says, nearest):
    machine(driver_says)
    with pytest.raises(SpecError) as caught:
        find_gpu("auto")
    message = str(caught.value)
    assert driver_says["name"] in message
    assert "is not in the table" in message
    assert "t4, a2, a10" in message
    assert nearest is None or f"nearest: {nearest}" in message
    assert "\n" not in message


def test_a_board_below_tensorrts_floor_is_refused_with_the_reason(machine):
    machine(board("Tesla V100-SXM2-16GB", (7, 0), 16384))
    with pytest.raises(SpecError, match=r"Tesla V100-SXM2-16GB has compute capability 7\.0.*TensorRT supports 7\.5"):
        find_gpu("auto")


@pytest.mark.parametrize(
    "driver_says",
    [board("NVIDIA GeForce RTX 3060", (8, 6), 8192), board("NVIDIA L4", (8, 6), 23034)],
    ids=["memory", "compute capability"],
)
def test_a_board_that_differs_from_the_tables_is_not_taken_for_it(machine, driver_says):
    machine(driver_says)
    with pytest.raises(SpecError, match=r"is not the (rtx-3060|l4) of the table .*--gpu (rtx-3060|l4)"):
        find_gpu("auto")


@pytest.mark.parametrize(
    ("boards", "kwargs", "reason"),
    [
        (
            (),
            {"no_driver": "NVML Shared Library Not Found"},
            r"no NVIDIA driver answers \(NVML Shared Library Not Found",
        ),
        ((), {}, "lists no GPU"),
        (({"name": "NVIDIA L4"},), {}, "does not describe its GPUs .GPU is lost"),
    ],
)
def test_without_a_gpu_one_error_lists_what_can_be_named(machine, boards, kwargs, reason):
    nvml = machine(*boards, **kwargs)
    with pytest.raises(
        SpecError, match=rf"^--gpu auto: .*{reason}.*; name the GPU that will serve: t4, a2, "
    ) as caught:
        find_gpu("auto")
    assert "\n" not in str(caught.value)
    assert nvml.running == 0


def test_without_nvidia_ml_py_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(SpecError, match="pip install nvidia-ml-py"):
        find_gpu("auto")


def test_the_command_shows_this_machines_gpu_alone(machine, capsys):
    machine(a100(("1g.5gb", 4864)))
    parser = argparse.ArgumentParser()
    gpus_command.add_arguments(parser)
    assert gpus_command.run(parser.parse_args(["--this-machine"])) == 0
    header, row, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "name"
    assert row.split() == ["a100-40gb-1g.5gb", "8.0", "5", "194.4", "44.6", "89.1", "4", "-", "-"]
    gpus_command.run(parser.parse_args(["--this-machine", "--json"]))
    (told,) = json.loads(capsys.readouterr().out)
    assert told["gpu"] == "a100-40gb:1g.5gb"


def test_the_real_driver_is_read_or_its_absence_is_told():
    nvml = pytest.importorskip("pynvml")
    try:
        nvml.nvmlInit()
        boards = nvml.nvmlDeviceGetCount()
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        boards = 0
    if not boards:
        with pytest.raises(NoGpuError, match="driver"):
            read_devices()
        return
    devices = read_devices()
    assert len(devices) >= boards
    assert all(isinstance(device, NvmlDevice) and device.name for device in devices)


def test_the_use_of_several_gpus_is_their_mean_and_their_sum(machine):
    nvml = machine({"busy": 30, "mib": 16000}, {"busy": 70, "mib": 16000})
    gauge = GpuGauge()
    assert gauge.read() == GpuUse(utilization=0.5, used_bytes=1024 * MIB)
    assert nvml.running == 1
    gauge.close()
    assert nvml.running == 0


def test_what_the_driver_does_not_tell_of_its_use_is_none(machine):
    # A GPU in MIG mode has no utilization, a Jetson no memory of its own.
    machine({"mib": 16000})
    assert GpuGauge().read() == GpuUse(utilization=None, used_bytes=512 * MIB)
    machine({"busy": 10})
    assert GpuGauge().read() == GpuUse(utilization=0.1, used_bytes=None)


def test_without_a_gpu_there_is_no_use_to_read(machine):
    nvml = machine()
    with pytest.raises(NoGpuError, match="lists no GPU"):
        GpuGauge()
    assert nvml.running == 0
