"""The GPUs that a build can aim at: name -> compute capability, memory, bandwidth and peak figures."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.errors import SpecError

# TensorRT 10.5 dropped Volta; the Jetson Xavier (7.2) went with it.
LOWEST_COMPUTE_CAPABILITY = (7, 5)


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuTarget:
    """One GPU model, in its datasheet's dense figures; None where a figure is not confirmed."""

    name: str
    """The word after ``--gpu``: lower case, e.g. ``t4``."""
    compute_capability: str
    """As Triton's ``cc_model_filenames`` has it: ``7.5``."""
    memory_gb: float
    bandwidth_gb_s: float
    fp16_tflops: float | None = None
    int8_tops: float | None = None
    pcie_gen: int | None = None
    """None for a Jetson, whose GPU shares the processor's memory."""
    watts: float | None = None

    def __post_init__(self) -> None:
        """Check what came from the table.

        Raises:
            ValueError: the compute capability is not ``major.minor``, or a figure is not a positive number.
        """
        if not re.fullmatch(r"\d+\.\d", str(self.compute_capability)) or not isinstance(self.compute_capability, str):
            raise ValueError(f"{self.name}: expected compute_capability such as '7.5', got {self.compute_capability!r}")
        for field in ("memory_gb", "bandwidth_gb_s", "fp16_tflops", "int8_tops", "pcie_gen", "watts"):
            figure = getattr(self, field)
            optional = field not in ("memory_gb", "bandwidth_gb_s")
            if figure is None and optional:
                continue
            if isinstance(figure, bool) or not isinstance(figure, int | float) or figure <= 0:
                raise ValueError(f"{self.name}: expected a positive {field}, got {figure!r}")

    @property
    def sm(self) -> tuple[int, int]:
        """The compute capability as numbers, (7, 5) for SM 7.5."""
        major, minor = self.compute_capability.split(".")
        return int(major), int(minor)


@functools.cache
def known_gpus() -> Mapping[str, GpuTarget]:
    """Every GPU of gpus.yaml by name, those below TensorRT's floor included."""
    import yaml

    table = yaml.safe_load(Path(__file__).with_name("gpus.yaml").read_text(encoding="utf-8"))
    return {name: GpuTarget(name=name, **figures) for name, figures in table.items()}


def find_gpu(name: str) -> GpuTarget:
    """The GPU of that name, upper or lower case.

    Raises:
        SpecError: no GPU has that name, or TensorRT no longer supports it.
    """
    gpus = known_gpus()
    supported = [gpu.name for gpu in gpus.values() if gpu.sm >= LOWEST_COMPUTE_CAPABILITY]
    wanted = name.strip().lower()
    gpu = gpus.get(wanted)
    if gpu is None:
        nearest = _nearest(wanted, supported)
        hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ";"
        raise SpecError(f"unknown GPU {name!r}{hint} expected one of: {', '.join(supported)}")
    if gpu.sm < LOWEST_COMPUTE_CAPABILITY:
        lowest = ".".join(map(str, LOWEST_COMPUTE_CAPABILITY))
        raise SpecError(
            f"{gpu.name} has compute capability {gpu.compute_capability}, and TensorRT supports {lowest} and up; "
            f"expected one of: {', '.join(supported)}"
        )
    return gpu


def _nearest(wanted: str, names: list[str]) -> list[str]:
    """The names that ``wanted`` may have meant, none where nothing resembles it."""
    # nvidia-smi says "Tesla T4" and "NVIDIA GeForce RTX 4090".
    core = re.sub(r"[\s_]+", "-", re.sub(r"\b(nvidia|tesla|geforce)\b", "", wanted).strip(" -_"))
    # "a100" is one letter from a10, yet means one of the two A100.
    longer = [name for name in names if core and name.startswith(core)]
    return longer or difflib.get_close_matches(core, names, n=1, cutoff=0.5)
