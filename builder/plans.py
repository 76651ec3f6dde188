"""TensorRT plans of a version: which GPU loads which, what is known of each, and which of them are there already.

A plan belongs to one graph, one compute capability and one TensorRT version, and, unless it was built for more, to one
GPU model. Triton picks it by compute capability alone (``cc_model_filenames``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.engine import EngineOptions, HardwareCompatibility, Profile
from builder.errors import RepositoryError, SpecError
from builder.manifest import check_version, read_manifest, versions_of

if TYPE_CHECKING:
    from builder.gpus import GpuTarget
    from builder.serving import GpuServing

AMPERE = (8, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRecord:
    """What a manifest says of one plan."""

    file: str
    compute_capability: str
    gpus: tuple[str, ...]
    """The fleet's GPUs that load it."""
    graph_sha256: str
    """Of the model.onnx that it was built from."""
    library: str
    version: str
    """TensorRT's: the plan loads in this one alone."""
    hardware_compatibility: str
    profiles: tuple[Profile, ...]
    workspace_bytes: int
    device_memory_bytes: int | None
    """Activations and scratch of one execution context, as the engine says."""
    device: str | None
    """The GPU that it was built on, as its driver names it."""
    driver: str | None
    triton: str | None
    """The release whose TensorRT built it, where it was named."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PlanRecord:
        """What ``to_json`` gave, read back from JSON."""
        profiles = tuple(
            Profile(**each | {"imgsz": tuple(each["imgsz"]) if each["imgsz"] else None}) for each in values["profiles"]
        )
        return cls(**{**values, "gpus": tuple(values["gpus"]), "profiles": profiles})


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanFile:
    """A plan on the disk, and its record."""

    path: Path
    record: PlanRecord


def plan_file(gpu: GpuTarget, compatibility: HardwareCompatibility) -> str:
    """The plan's name in the version's folder: ``model_sm75.plan``."""
    if compatibility is HardwareCompatibility.AMPERE_PLUS and gpu.sm >= AMPERE:
        return "model_ampere_plus.plan"
    return f"model_sm{gpu.compute_capability.replace('.', '')}.plan"


def check_fleet(gpus: Sequence[GpuTarget], compatibility: HardwareCompatibility) -> tuple[GpuTarget, ...]:
    """The GPUs, each once, where Triton can tell their plans apart.

    Raises:
        SpecError: two GPUs of one compute capability would load one plan, and it is not to be built for both; or the
            compatibility asked for does not reach one of them.
    """
    fleet = tuple({gpu.name: gpu for gpu in gpus}.values())
    if compatibility is HardwareCompatibility.AMPERE_PLUS and all(gpu.sm < AMPERE for gpu in fleet):
        raise SpecError(
            f"--hardware-compatibility ampere_plus: expected a GPU of compute capability 8.0 or higher, got "
            f"{', '.join(f'{gpu.name} ({gpu.compute_capability})' for gpu in fleet)}."
        )
    if compatibility is not HardwareCompatibility.NONE:
        return fleet
    by_capability: dict[str, str] = {}
    for gpu in fleet:
        other = by_capability.setdefault(gpu.compute_capability, gpu.name)
        if other != gpu.name:
            raise SpecError(
                f"{other} and {gpu.name} are both of compute capability {gpu.compute_capability}, by which Triton "
                "picks a plan, and a plan is tuned for one GPU; build one for both with --hardware-compatibility "
                "same_compute_capability, or give each a repository of its own."
            )
    return fleet


def shared_plans(fleet: Iterable[GpuTarget], compatibility: HardwareCompatibility) -> list[str]:
    """A line for each plan that several GPUs load."""
    users: dict[str, list[str]] = {}
    for gpu in fleet:
        users.setdefault(plan_file(gpu, compatibility), []).append(gpu.name)
    return [
        f"{' and '.join(names)} share {file}, built for {compatibility}" for file, names in users.items() if names[1:]
    ]


def profiles_for(serving: GpuServing) -> tuple[Profile, ...]:
    """One profile, tuned for the largest batch: Triton fills batches under load, and an idle GPU is quick anyway."""
    most = serving.settings.max_batch
    return (Profile(batch_min=1, batch_opt=most, batch_max=most),)


def options_for(
    serving: GpuServing,
    compatibility: HardwareCompatibility,
    *,
    optimization_level: int | None,
    free_bytes: int | None,
    timing_cache: Path | None,
) -> EngineOptions:
    """What the compiler is told: the workspace by the GPU's budget, and no more than it has left."""
    workspace = serving.workspace_bytes if free_bytes is None else min(serving.workspace_bytes, free_bytes)
    return EngineOptions(
        workspace_bytes=workspace,
        optimization_level=optimization_level,
        hardware_compatibility=compatibility,
        timing_cache=timing_cache,
    )


def published_plans(
    model: Path, graph_sha256: str, fleet: Sequence[GpuServing], compatibility: HardwareCompatibility
) -> dict[str, PlanFile]:
    """The plans of the newest version that this fleet can go on using, by file name.

    A plan is of use where its graph is the same, its file is as it was published, and its profile takes the batches.
    """
    found: dict[str, PlanFile] = {}
    for version in versions_of(model)[:1]:
        folder = model / str(version)
        try:
            manifest = read_manifest(folder)
            records = [PlanRecord.from_json(each) for each in manifest["build"].get("plans", ())]
        except (RepositoryError, KeyError, TypeError, ValueError, AttributeError):
            # A version of an older release, or a damaged one: nothing of it is of use.
            continue
        if not records or check_version(folder).messages:
            continue
        for record in records:
            users = [each for each in fleet if plan_file(each.gpu, compatibility) == record.file]
            if users and _usable(record, graph_sha256, users, compatibility):
                kept = dataclasses.replace(record, gpus=tuple(each.gpu.name for each in users))
                found[record.file] = PlanFile(path=folder / record.file, record=kept)
    return found


def _usable(
    record: PlanRecord, graph_sha256: str, users: Sequence[GpuServing], compatibility: HardwareCompatibility
) -> bool:
    largest = max(profile.batch_max for profile in record.profiles)
    same_build = record.graph_sha256 == graph_sha256 and record.hardware_compatibility == compatibility.value
    # A plan that was tuned for one GPU is no plan for its neighbour of the same compute capability.
    known = compatibility is not HardwareCompatibility.NONE or all(each.gpu.name in record.gpus for each in users)
    return same_build and known and all(each.settings.max_batch <= largest for each in users)


def with_plans(
    fleet: Sequence[GpuServing], plans: Mapping[str, PlanFile], compatibility: HardwareCompatibility
) -> tuple[GpuServing, ...]:
    """The fleet, each GPU with its plan where there is one."""

    def plan(serving: GpuServing) -> str | None:
        file = plan_file(serving.gpu, compatibility)
        return file if file in plans else None

    return tuple(dataclasses.replace(each, plan=plan(each)) for each in fleet)
