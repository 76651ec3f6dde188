"""The GPUs that a build can aim at: name -> compute capability, memory, bandwidth and peak figures."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import SpecError
from builder.mig import MigProfile, profiles_from, slice_of

if TYPE_CHECKING:
    from builder.nvml import NvmlDevice

# TensorRT 10.5 dropped Volta; the Jetson Xavier (7.2) went with it.
LOWEST_COMPUTE_CAPABILITY = (7, 5)
AUTO = "auto"
# Between what is sold (16 GB) and what a driver reports of it lies up to 15 %: GiB for GB, less what ECC takes.
MEMORY_TOLERANCE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuTarget:
    """One GPU model, in its datasheet's dense figures, or a MIG slice of one; None where a figure is not confirmed."""

    name: str
    """Good as a file name: ``t4``, or ``a100-40gb-1g.5gb`` for a slice."""
    compute_capability: str
    """As Triton's ``cc_model_filenames`` has it: ``7.5``."""
    memory_gb: float
    bandwidth_gb_s: float
    fp16_tflops: float | None = None
    int8_tops: float | None = None
    pcie_gen: int | None = None
    """None for a Jetson, whose GPU shares the processor's memory."""
    watts: float | None = None
    """None for a slice: the limit is the board's."""
    fp16_accumulation: bool = False
    """Whether ``fp16_tflops`` is with FP16 accumulation, and FP32 accumulation runs at half of it."""
    mig_instances: int | None = None
    """Into how many slices MIG cuts it at most; None without MIG, and for a slice."""
    slice_of: str | None = None
    """The GPU that this is a slice of."""
    mig_profile: str | None = None
    """A slice's profile: ``1g.5gb``."""
    device_names: tuple[str, ...] = field(default=(), compare=False)
    """What the driver calls it, without NVIDIA: ``Tesla T4``, ``A100-SXM4-40GB``."""
    mig_profiles: tuple[MigProfile, ...] = field(default=(), compare=False)
    """How it can be cut; none without MIG, or where NVIDIA gives no share of memory."""

    def __post_init__(self) -> None:
        """Check what came from the table.

        Raises:
            ValueError: the name is no file name, the compute capability is not ``major.minor``, or a figure is not a
                positive number.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.name):
            raise ValueError(f"expected a GPU's name such as 'rtx-4090', got {self.name!r}")
        if not isinstance(self.compute_capability, str) or not re.fullmatch(r"\d+\.\d", self.compute_capability):
            raise ValueError(f"{self.name}: expected compute_capability such as '7.5', got {self.compute_capability!r}")
        for figure_name in ("memory_gb", "bandwidth_gb_s", "fp16_tflops", "int8_tops", "watts"):
            optional = figure_name not in ("memory_gb", "bandwidth_gb_s")
            self._expect_positive(figure_name, int | float, optional=optional)
        for figure_name in ("pcie_gen", "mig_instances"):
            self._expect_positive(figure_name, int, optional=True)
        if not isinstance(self.fp16_accumulation, bool):
            raise ValueError(f"{self.name}: expected fp16_accumulation true or false, got {self.fp16_accumulation!r}")
        fit = max((profile.instances for profile in self.mig_profiles), default=self.mig_instances)
        if fit != self.mig_instances:
            raise ValueError(
                f"{self.name}: expected mig_instances {fit}, as mig_profiles say, got {self.mig_instances}"
            )

    def _expect_positive(self, figure_name: str, kind: Any, *, optional: bool) -> None:
        figure = getattr(self, figure_name)
        if figure is None and optional:
            return
        if isinstance(figure, bool) or not isinstance(figure, kind) or figure <= 0:
            raise ValueError(f"{self.name}: expected a positive {figure_name}, got {figure!r}")

    @property
    def sm(self) -> tuple[int, int]:
        """The compute capability as numbers, (7, 5) for SM 7.5."""
        major, minor = self.compute_capability.split(".")
        return int(major), int(minor)

    @property
    def supported(self) -> bool:
        """Whether TensorRT still builds for it."""
        return self.sm >= LOWEST_COMPUTE_CAPABILITY

    @property
    def fp16_tflops_accumulating_fp32(self) -> float | None:
        """Peak FP16 with FP32 accumulation, which a GeForce board runs at half the rate; TFLOPS."""
        if self.fp16_tflops is None or not self.fp16_accumulation:
            return self.fp16_tflops
        return self.fp16_tflops / 2


@functools.cache
def known_gpus() -> Mapping[str, GpuTarget]:
    """Every GPU of gpus.yaml by name, those below TensorRT's floor included.

    Raises:
        ValueError: the table holds a figure that cannot be.
    """
    import yaml

    table = yaml.safe_load(Path(__file__).with_name("gpus.yaml").read_text(encoding="utf-8"))
    return {name: _target(name, **row) for name, row in table.items()}


def _target(
    name: str, device_names: Iterable[str] = (), mig_profiles: Mapping[str, Any] | None = None, **figures: Any
) -> GpuTarget:
    profiles = profiles_from(mig_profiles or {})
    return GpuTarget(name=name, device_names=tuple(device_names), mig_profiles=profiles, **figures)


@functools.cache
def mig_slices() -> Mapping[str, GpuTarget]:
    """Every MIG slice of every known GPU, by ``<gpu>:<profile>``."""
    return {
        f"{gpu.name}:{profile.name}": slice_of(gpu, profile)
        for gpu in known_gpus().values()
        for profile in gpu.mig_profiles
    }


def supported_names() -> list[str]:
    """What can follow ``--gpu``, MIG slices aside."""
    return [gpu.name for gpu in known_gpus().values() if gpu.supported]


def find_gpu(name: str) -> GpuTarget:
    """The GPU of that name, upper or lower case.

    Accepted are the table's names (``t4``), MIG slices (``a100-40gb:1g.5gb``, or as files are named after them,
    ``a100-40gb-1g.5gb``), the driver's own names (``NVIDIA A100-SXM4-40GB``), and ``auto``: this machine's GPU.

    Raises:
        SpecError: no GPU has that name, TensorRT no longer supports it, it cannot be cut that way, or ``auto`` finds no
            GPU, several kinds, or one that the table does not hold.
    """
    wanted = name.strip().lower()
    if wanted == AUTO:
        return machine_gpu()
    gpu = known_gpus().get(wanted) or _by_slice_name().get(wanted) or _by_device_name(wanted)
    if gpu is None:
        raise _unknown(name, wanted)
    if not gpu.supported:
        raise SpecError(f"{_unsupported(gpu.name, gpu.compute_capability)}; expected one of: {_listed()}")
    return gpu


def machine_gpu() -> GpuTarget:
    """The GPU of this machine, read by NVML; of a GPU in MIG mode, its slice.

    Raises:
        SpecError: there is none, there are several kinds, or the table does not hold it.
    """
    from builder.nvml import NoGpuError, read_devices

    try:
        devices = read_devices()
    except NoGpuError as e:
        raise SpecError(f"--gpu auto: {e}; name the GPU that will serve: {_listed()}") from None
    targets = {target.name: target for target in map(device_target, devices)}
    if len(targets) > 1:
        raise SpecError(f"--gpu auto: this machine has {' and '.join(targets)}; name the ones to build for")
    return next(iter(targets.values()))


def device_target(device: NvmlDevice) -> GpuTarget:
    """The target that this device is.

    Raises:
        SpecError: the table does not hold it, or TensorRT no longer supports it.
    """
    gpu = _by_device_name(device.name.lower())
    what = f"{device.name} (compute capability {device.compute_capability}"
    what += ")" if device.memory_gb is None else f", {device.memory_gb:.1f} GB)"
    if gpu is None:
        major, minor = device.compute_capability.split(".")
        if (int(major), int(minor)) < LOWEST_COMPUTE_CAPABILITY:
            raise SpecError(f"--gpu auto: {_unsupported(device.name, device.compute_capability)}")
        nearest = _nearest(device.name.partition(" MIG ")[0].lower())
        hint = f", nearest: {' or '.join(nearest)}" if nearest else ""
        raise SpecError(f"--gpu auto: {what} is not in the table{hint}; name the GPU to build for: {_listed()}")
    off = device.memory_gb is not None and abs(device.memory_gb / gpu.memory_gb - 1) > MEMORY_TOLERANCE
    if off or gpu.compute_capability != device.compute_capability:
        raise SpecError(
            f"--gpu auto: this machine's {what} is not the {gpu.name} of the table (compute capability "
            f"{gpu.compute_capability}, {gpu.memory_gb:g} GB); if it is to be treated as one: --gpu {gpu.name}"
        )
    return gpu


@functools.cache
def _by_slice_name() -> Mapping[str, GpuTarget]:
    by_name = {gpu.name: gpu for gpu in mig_slices().values()}
    return {**mig_slices(), **by_name}


def _by_device_name(device_name: str) -> GpuTarget | None:
    """The target that a driver's name means, in lower case, such as ``nvidia a100-sxm4-40gb mig 1g.5gb``."""
    # Older drivers leave NVIDIA out: "A100-SXM4-40GB".
    board, _, profile = device_name.removeprefix("nvidia ").partition(" mig ")
    gpus = known_gpus().values()
    gpu = next((gpu for gpu in gpus if board in (each.lower() for each in gpu.device_names)), None)
    if gpu is None or not profile:
        return gpu
    # Media and graphics engines change neither memory nor compute.
    return mig_slices().get(f"{gpu.name}:{re.sub(r'([+-])(me|me[.]all|gfx)$', '', profile)}")


def _unsupported(name: str, compute_capability: str) -> str:
    lowest = ".".join(map(str, LOWEST_COMPUTE_CAPABILITY))
    return f"{name} has compute capability {compute_capability}, and TensorRT supports {lowest} and up"


def _unknown(name: str, wanted: str) -> SpecError:
    board, colon, profile = wanted.partition(":")
    gpu = known_gpus().get(board)
    if colon and gpu is not None:
        return _unknown_profile(gpu, profile)
    nearest = _nearest(board)
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ";"
    return SpecError(f"unknown GPU {name!r}{hint} expected one of: {_listed()}")


def _unknown_profile(gpu: GpuTarget, profile: str) -> SpecError:
    if gpu.mig_profiles:
        slices = ", ".join(f"{gpu.name}:{each.name}" for each in gpu.mig_profiles)
        return SpecError(f"{gpu.name} has no MIG profile {profile!r}; expected one of: {slices}")
    if gpu.mig_instances:
        return SpecError(
            f"MIG slices of {gpu.name} share the processor's memory and are no targets; expected {gpu.name} itself"
        )
    cut = ", ".join(each.name for each in known_gpus().values() if each.mig_profiles)
    return SpecError(f"{gpu.name} cannot be cut by MIG; expected {gpu.name} itself, or a slice of one of: {cut}")


def _listed() -> str:
    return ", ".join(supported_names())


def _nearest(wanted: str) -> list[str]:
    """The supported names that ``wanted`` may have meant, none where nothing resembles it."""
    names = supported_names()
    # nvidia-smi says "Tesla T4" and "NVIDIA GeForce RTX 4090".
    core = re.sub(r"[\s_]+", "-", re.sub(r"\b(nvidia|tesla|geforce)\b", "", wanted).strip(" -_"))
    # "a100" is one letter from a10, yet means one of the two A100.
    longer = [name for name in names if core and name.startswith(core)]
    return longer or difflib.get_close_matches(core, names, n=1, cutoff=0.5)
