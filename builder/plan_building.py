"""A plan for the GPU of this machine, in the TensorRT of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import engine
from builder.cache import Stage, StageCache, code_sha256
from builder.engine import HardwareCompatibility, Library, Plan
from builder.errors import SpecError
from builder.gpus import device_target
from builder.nvml import NoGpuError, read_devices
from builder.plans import PlanFile, PlanRecord, options_for, plan_file, profiles_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.artifacts import OnnxModel
    from builder.gpus import GpuTarget
    from builder.nvml import NvmlDevice
    from builder.releases import TritonRelease
    from builder.serving import GpuServing

Progress = Callable[[str, int, int], None]
BuildPlan = Callable[..., Plan]

IMAGE_TENSORRT = "TRT_VERSION"
"""The environment variable by which NVIDIA's images name their TensorRT, such as ``10.13.3.9``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What plans are built with here."""

    gpu: GpuTarget
    device: NvmlDevice
    tensorrt: str
    """Its version."""


def this_machine(gpu: GpuTarget | None = None) -> Machine:
    """This machine's GPU, the one named where it has several kinds, and its TensorRT.

    Raises:
        SpecError: it has no GPU, not the one named, or several kinds and none is named.
        BuilderError: TensorRT is not installed or does not load.
    """
    try:
        found = {target.name: (target, device) for device in read_devices() for target in [device_target(device)]}
    except NoGpuError as e:
        raise SpecError(f"a plan is built on the GPU that will load it: {e}") from None
    if gpu is not None and gpu.name not in found:
        raise SpecError(f"--gpu {gpu.name}: this machine has {' and '.join(found)}; a plan is built on its own GPU.")
    if gpu is None and len(found) > 1:
        raise SpecError(f"this machine has {' and '.join(found)}; name one with --gpu.")
    target, device = found[gpu.name] if gpu else next(iter(found.values()))
    version: str = engine.load_library(Library.TENSORRT).__version__
    return Machine(gpu=target, device=device, tensorrt=version)


def check_tensorrt(version: str, release: TritonRelease | None) -> None:
    """Pass where a plan of this TensorRT can be expected to load in the server.

    Inside an NVIDIA image it must be the image's own; where a release is named, that release's.

    Raises:
        SpecError: it is another one.
    """
    image = os.environ.get(IMAGE_TENSORRT, "").partition("+")[0].partition("-")[0]
    if image and not _same(image, version):
        raise SpecError(
            f"the image's TensorRT is {image}, Python's is {version}, and a plan loads in the version that built it "
            f"alone; run: pip install tensorrt=={image}"
        )
    if release is not None and release.runs_plan_of(version) is False:
        raise SpecError(
            f"this machine's TensorRT is {version}, Triton {release.name} has {release.tensorrt}, and a plan loads in "
            f"the version that built it alone; build it inside {release.image}"
        )


def _same(one: str, other: str) -> bool:
    from builder.releases import same_version

    return same_version(one, other)


def make_plan(
    cache: StageCache,
    model: OnnxModel,
    fleet: Sequence[GpuServing],
    machine: Machine,
    *,
    compatibility: HardwareCompatibility = HardwareCompatibility.NONE,
    optimization_level: int | None = None,
    triton: str | None = None,
    progress: Progress = lambda what, done, total: None,
    build: BuildPlan = engine.build_plan,
) -> tuple[PlanFile, Stage]:
    """The plan of this machine's GPU, found in the cache or built; ``fleet`` holds that GPU.

    ``build`` is ``engine.build_plan``; tests, which have no GPU, give one that compiles by TensorRT-RTX.

    Raises:
        BuilderError: the compiler refuses the graph.
    """
    file = plan_file(machine.gpu, compatibility)
    users = [each for each in fleet if plan_file(each.gpu, compatibility) == file]
    serving = next(each for each in users if each.gpu.name == machine.gpu.name)
    profiles = profiles_for(max(users, key=lambda each: each.settings.max_batch))
    options = options_for(
        serving,
        compatibility,
        optimization_level=optimization_level,
        free_bytes=machine.device.free_bytes,
        timing_cache=timing_cache_path(cache.root, machine),
    )

    def make(folder: Path) -> dict[str, Any]:
        return build(model, profiles, folder / file, options=options, progress=progress).to_json()

    inputs = {
        "graph": model.sha256,
        "device": [machine.device.name, machine.device.driver_version, machine.tensorrt],
        "profiles": [repr(each) for each in profiles],
        "options": {k: v for k, v in options.to_json().items() if k != "timing_cache"},
        "code": code_sha256(("engine", "engine_network")),
    }
    stage = cache.run("plan", inputs, make)
    record = PlanRecord(
        file=file,
        compute_capability=machine.gpu.compute_capability,
        gpus=tuple(each.gpu.name for each in users),
        graph_sha256=model.sha256,
        library=stage.result["library"],
        version=stage.result["version"],
        hardware_compatibility=compatibility.value,
        profiles=profiles,
        workspace_bytes=options.workspace_bytes or 0,
        device_memory_bytes=stage.result["device_memory_bytes"],
        device=machine.device.name,
        driver=machine.device.driver_version,
        triton=triton,
    )
    return PlanFile(path=stage.folder / file, record=record), stage


def timing_cache_path(root: Path, machine: Machine) -> Path:
    """Where the timings of this GPU, driver and TensorRT are kept, for every build of every model."""
    parts = (machine.device.name, machine.device.driver_version or "driver", machine.tensorrt)
    name = re.sub(r"[^A-Za-z0-9.]+", "-", "_".join(parts)).strip("-").lower()
    return root / "timing" / f"{name}.cache"
