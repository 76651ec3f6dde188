"""MIG: the slices that a GPU can be cut into, each a GPU of its own to whoever runs on it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.gpus import GpuTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class MigProfile:
    """One way to cut a slice, in the fractions of NVIDIA's MIG User Guide."""

    name: str
    """Compute slices and memory: ``1g.5gb``."""
    memory: Fraction
    """Share of the memory, and of its bandwidth: a memory slice comes with its controllers."""
    compute: Fraction
    """Share of the SMs."""
    instances: int
    """How many fit on one GPU."""

    def __post_init__(self) -> None:
        """Check what came from the table.

        Raises:
            ValueError: the name is not NVIDIA's kind, or a share is not above 0 and at most 1.
        """
        if not re.fullmatch(r"[1-7]g\.[1-9]\d*gb", self.name):
            raise ValueError(f"expected a MIG profile such as '1g.5gb', got {self.name!r}")
        for field in ("memory", "compute"):
            if not 0 < getattr(self, field) <= 1:
                raise ValueError(f"{self.name}: expected {field} above 0 and at most 1, got {getattr(self, field)}")
        if isinstance(self.instances, bool) or not isinstance(self.instances, int) or self.instances < 1:
            raise ValueError(f"{self.name}: expected how many fit, got {self.instances!r}")


def profiles_from(table: Mapping[str, Sequence[str | int]]) -> tuple[MigProfile, ...]:
    """The profiles of a table such as ``{"1g.5gb": ["1/8", "1/7", 7]}``: memory, SMs, how many fit.

    Raises:
        ValueError: the table is not of that form.
    """
    profiles = []
    for name, row in table.items():
        match row:
            case [str(memory), str(compute), int(instances)]:
                shares = Fraction(memory), Fraction(compute)
                profiles.append(MigProfile(name=name, memory=shares[0], compute=shares[1], instances=instances))
            case _:
                raise ValueError(f"{name}: expected a row such as [1/8, 1/7, 7], got {row!r}")
    return tuple(profiles)


def slice_of(gpu: GpuTarget, profile: MigProfile) -> GpuTarget:
    """The slice as a target: memory and bandwidth by its memory share, peak figures by its SM share.

    The peaks are an upper bound: MIG mode sets some SMs aside (an A100 keeps 98 of its 108), and all slices share the
    board's power limit and its PCIe link.
    """
    return dataclasses.replace(
        gpu,
        name=f"{gpu.name}-{profile.name}",
        memory_gb=_share(gpu.memory_gb, profile.memory),
        bandwidth_gb_s=_share(gpu.bandwidth_gb_s, profile.memory),
        fp16_tflops=None if gpu.fp16_tflops is None else _share(gpu.fp16_tflops, profile.compute),
        int8_tops=None if gpu.int8_tops is None else _share(gpu.int8_tops, profile.compute),
        watts=None,
        mig_instances=None,
        mig_profiles=(),
        device_names=(),
        slice_of=gpu.name,
        mig_profile=profile.name,
    )


def _share(figure: float, share: Fraction) -> float:
    return round(figure * share.numerator / share.denominator, 3)
