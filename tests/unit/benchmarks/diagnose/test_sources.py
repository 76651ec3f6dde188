"""Where the figures come from: the kernel, Triton's metrics, NVML, and what is said where one of them is not there.

No machine that tests run on has every GPU, so a fake NVML, owned here, stands for the driver; that its functions exist
in the real module is a test of its own.
"""
# ruff: noqa: N802

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.cli import main
from benchmarks.diagnose.evidence import Missing
from benchmarks.diagnose.gpu import BusGauge
from benchmarks.diagnose.processes import ServerProcesses, find_server, machine_ticks
from benchmarks.diagnose.triton import pending_requests, read_pending
from builder.nvml import NoGpuError
from clients.wire.address import address_from

MB = 1_000_000


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_process_that_listens_is_found_by_its_port(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        try:
            listener.bind((host, 0))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        listener.listen()
        url = f"grpc://[{host}]:{listener.getsockname()[1]}" if ":" in host else f"grpc://{host}:{_port(listener)}"
        assert find_server(address_from(url)) == os.getpid()


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def test_a_port_on_which_nobody_listens_and_another_machine_have_no_process() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        nobody = find_server(address_from(f"grpc://127.0.0.1:{_port(bound)}"))
    assert isinstance(nobody, Missing)
    assert "cannot be seen" in nobody.reason
    elsewhere = find_server(address_from("grpc://triton.plant:8001"))
    assert isinstance(elsewhere, Missing)
    assert "run diagnose on its machine, with the address 127.0.0.1:8001" in elsewhere.reason


def test_a_server_s_children_count_with_it() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "1\n"
        processes = ServerProcesses(parent.pid)
        assert processes.pids()[0] == parent.pid
        assert len(processes.pids()) == 2
        assert processes.memory_bytes() > 2 * MB
        assert processes.memory_limit_bytes() > processes.memory_bytes()
        parent.communicate("\n")
    assert ServerProcesses(parent.pid).memory_bytes() == 0


def test_the_machine_s_ticks_grow() -> None:
    before = machine_ticks()
    now = machine_ticks()
    assert now[2] >= before[2]
    assert before[2] > before[0] > 0


def test_pending_requests_are_read_from_the_metrics_by_model() -> None:
    text = """\
# HELP nv_inference_pending_request_count Instantaneous number of pending requests awaiting execution per-model.
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="day",version="1"} 3
nv_inference_pending_request_count{model="day",version="2"} 1
nv_inference_pending_request_count{version="1",model="night \\"shift\\""} 0
nv_inference_count{model="day",version="1"} 77
nv_cpu_utilization 0.5
"""
    assert read_pending(text) == {"day": 4.0, 'night \\"shift\\"': 0.0}
    assert read_pending("") == {}


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/metrics", "file:///etc/passwd", "127.0.0.1:8002", "http://"])
def test_metrics_that_cannot_be_read_say_so(url: str) -> None:
    missing = pending_requests(url)
    assert isinstance(missing, Missing)
    assert url in missing.reason


def test_without_a_server_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("grpc://127.0.0.1:9", "http://127.0.0.1:9"):
        assert main(["diagnose", "--url", url, "--duration-s", "0.1"]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"error: expected Triton at {url} to answer")
        assert error.endswith("give the address of one that runs (--url)")


class FakeError(Exception):
    pass


class FakeNvml:
    """The part of ``pynvml`` that the bus gauge uses, for boards given as dictionaries."""

    NVMLError = FakeError
    NVML_PCIE_UTIL_TX_BYTES = 0
    NVML_PCIE_UTIL_RX_BYTES = 1

    def __init__(self, *boards: dict[str, Any]) -> None:
        self.boards = boards
        self.running = 0

    def nvmlInit(self) -> None:
        self.running += 1

    def nvmlShutdown(self) -> None:
        self.running -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.boards[index]

    def nvmlDeviceGetName(self, gpu: dict[str, Any]) -> str:
        return "Tesla T4"

    def nvmlDeviceGetMemoryInfo(self, gpu: dict[str, Any]) -> Any:
        return SimpleNamespace(total=16_000 * MB, used=told(gpu, "used"), free=0)

    def nvmlDeviceGetPcieThroughput(self, gpu: dict[str, Any], way: int) -> int:
        return told(gpu, "kb_per_s")[way]

    def nvmlDeviceGetCurrPcieLinkGeneration(self, gpu: dict[str, Any]) -> int:
        return told(gpu, "generation")

    def nvmlDeviceGetCurrPcieLinkWidth(self, gpu: dict[str, Any]) -> int:
        return told(gpu, "width")

    def nvmlDeviceGetMaxPcieLinkWidth(self, gpu: dict[str, Any]) -> int:
        return 16

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: dict[str, Any]) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in told(gpu, "processes").items()]


def told(gpu: dict[str, Any], what: str) -> Any:
    if what not in gpu:
        raise FakeError("Not Supported")
    return gpu[what]


T4 = {
    "used": 1_500 * MB,
    "kb_per_s": (400_000, 2_000_000),
    "generation": 3,
    "width": 16,
    "processes": {7: 900 * MB, 8: 300 * MB, 9: 100 * MB},
}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    def with_boards(*boards: dict[str, Any]) -> FakeNvml:
        nvml = FakeNvml(*boards)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return with_boards


def test_a_gpu_is_told_by_nvml(driver: Any) -> None:
    nvml = driver(T4)
    gauge = BusGauge()
    gauge.look()
    (gpu,) = gauge.evidence(frozenset({7, 8}), allocated_bytes=1_000 * MB)
    gauge.close()
    assert nvml.running == 0
    assert gpu.name == "Tesla T4"
    assert gpu.used_bytes == 1_500 * MB
    assert gpu.server_bytes == 1_200 * MB
    assert gpu.allocated_bytes == 1_000 * MB
    # The busier direction; NVML counts in KB/s.
    assert gpu.bus_bytes_per_s == (2e9,)
    assert gpu.link_bytes_per_s == pytest.approx(15.76e9)
    assert gpu.link == "generation 3 x16"
    assert gpu.is_full_link


def test_what_the_driver_does_not_tell_is_missing_with_its_reason(driver: Any) -> None:
    driver({})
    gauge = BusGauge()
    gauge.look()
    (gpu,) = gauge.evidence(frozenset({7}), allocated_bytes=0)
    gauge.close()
    missing = (gpu.server_bytes, gpu.allocated_bytes, gpu.bus_bytes_per_s, gpu.link_bytes_per_s, gpu.used_bytes)
    assert all(isinstance(each, Missing) and each.reason for each in missing)


def test_a_process_of_unknown_memory_and_a_narrow_link_are_told(driver: Any) -> None:
    driver(T4 | {"processes": {7: None}, "width": 8})
    gauge = BusGauge()
    (gpu,) = gauge.evidence(frozenset({7}), allocated_bytes=0)
    gauge.close()
    assert isinstance(gpu.server_bytes, Missing)
    assert not gpu.is_full_link


def test_on_two_gpus_nobody_knows_whose_memory_a_model_took(driver: Any) -> None:
    driver(T4, T4)
    gauge = BusGauge()
    for gpu in gauge.evidence(frozenset({7}), allocated_bytes=1_000 * MB):
        assert isinstance(gpu.allocated_bytes, Missing)
    gauge.close()


def test_without_a_gpu_there_is_no_gauge(driver: Any) -> None:
    nvml = driver()
    with pytest.raises(NoGpuError):
        BusGauge()
    assert nvml.running == 0


def test_the_fake_has_no_function_that_nvml_has_not() -> None:
    real = importlib.import_module("pynvml")
    assert [name for name in dir(FakeNvml) if name.lower().startswith("nvml") and not hasattr(real, name)] == []
