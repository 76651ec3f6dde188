"""The GPUs of this machine, as its driver names them; the only module that imports NVML."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class NoGpuError(Exception):
    """Why no GPU can be read on this machine; the command line never shows it bare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NvmlDevice:
    """One GPU, or one MIG slice of one, as NVML describes it."""

    name: str
    """Such as ``NVIDIA A100-SXM4-80GB``, for a slice ``NVIDIA A100-SXM4-80GB MIG 1g.10gb``."""
    compute_capability: str
    """The GPU's, also for a slice: ``8.0``."""
    memory_gb: float | None
    """10^9 bytes; None where the driver does not tell, as on a Jetson."""
    free_bytes: int | None = None
    """Memory that nothing on the machine has taken yet; None as above."""
    driver_version: str | None = None
    """Such as ``580.65.06``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuUse:
    """How busy this machine's GPUs are now, whoever keeps them so; None where the driver does not tell."""

    utilization: float | None
    """The share of the last moments in which a kernel ran, from 0 to 1; the mean of all GPUs."""
    used_bytes: int | None
    """Of all GPUs together."""


class GpuGauge:
    """Reads the GPUs' use again and again without connecting to the driver each time; ``close`` it."""

    def __init__(self) -> None:
        """Connect to the driver; raises NoGpuError as ``read_devices`` does."""
        self._nvml = _connected()
        try:
            self._gpus = [
                self._nvml.nvmlDeviceGetHandleByIndex(each) for each in range(self._nvml.nvmlDeviceGetCount())
            ]
        except self._nvml.NVMLError as e:
            self.close()
            raise NoGpuError(f"the NVIDIA driver does not describe its GPUs ({e})") from None
        if not self._gpus:
            self.close()
            raise NoGpuError("the NVIDIA driver lists no GPU")

    def read(self) -> GpuUse:
        """Now."""
        busy = [rates.gpu / 100 for rates in self._each(self._nvml.nvmlDeviceGetUtilizationRates)]
        used = [int(memory.used) for memory in self._each(self._nvml.nvmlDeviceGetMemoryInfo)]
        return GpuUse(utilization=sum(busy) / len(busy) if busy else None, used_bytes=sum(used) if used else None)

    def close(self) -> None:
        """Let go of the driver."""
        self._nvml.nvmlShutdown()

    def _each(self, read: Callable[[Any], Any]) -> list[Any]:
        """Of those GPUs that tell: not one in MIG mode its utilization, nor a Jetson its memory."""
        values = []
        for gpu in self._gpus:
            try:
                values.append(read(gpu))
            except self._nvml.NVMLError:
                continue
        return values


def read_devices() -> tuple[NvmlDevice, ...]:
    """Every GPU that NVML lists; of a GPU in MIG mode its slices instead.

    Raises:
        NoGpuError: nvidia-ml-py, the driver or a GPU is missing, or a GPU is in MIG mode and has no slice.
    """
    nvml = _connected()
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        devices = tuple(device for handle in handles for device in _devices(nvml, handle))
    except nvml.NVMLError as e:
        raise NoGpuError(f"the NVIDIA driver does not describe its GPUs ({e})") from None
    finally:
        nvml.nvmlShutdown()
    if not devices:
        raise NoGpuError("the NVIDIA driver lists no GPU")
    return devices


def _connected() -> Any:
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        raise NoGpuError("nvidia-ml-py is not installed (pip install nvidia-ml-py)") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as e:
        raise NoGpuError(f"no NVIDIA driver answers ({e})") from None
    return nvml


def _devices(nvml: Any, gpu: Any) -> list[NvmlDevice]:
    compute_capability = ".".join(map(str, nvml.nvmlDeviceGetCudaComputeCapability(gpu)))
    handles = _mig_slices(nvml, gpu) if _in_mig_mode(nvml, gpu) else [gpu]
    if not handles:
        raise NoGpuError(
            f"{_name(nvml, gpu)} is in MIG mode and has no slice (nvidia-smi mig -lgip lists what can be created)"
        )
    driver = _text(nvml.nvmlSystemGetDriverVersion())
    return [
        NvmlDevice(
            name=_name(nvml, handle),
            compute_capability=compute_capability,
            memory_gb=None if memory is None else float(memory.total) / 1e9,
            free_bytes=None if memory is None else int(memory.free),
            driver_version=driver,
        )
        for handle, memory in ((handle, _memory(nvml, handle)) for handle in handles)
    ]


def _in_mig_mode(nvml: Any, gpu: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(gpu)
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
        # A driver before R450 has no such function.
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _mig_slices(nvml: Any, gpu: Any) -> list[Any]:
    slices = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            slices.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index))
        except (nvml.NVMLError_NotFound, nvml.NVMLError_InvalidArgument):
            # Slices keep their index when one before them is removed.
            continue
    return slices


def _name(nvml: Any, handle: Any) -> str:
    return _text(nvml.nvmlDeviceGetName(handle))


def _text(value: bytes | str) -> str:
    # Older releases of nvidia-ml-py give bytes.
    return value.decode() if isinstance(value, bytes) else str(value)


def _memory(nvml: Any, handle: Any) -> Any:
    try:
        return nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError_NotSupported:
        return None
