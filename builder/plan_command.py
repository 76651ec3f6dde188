"""``python -m builder plan``: run on the GPU that will serve, it adds that GPU's plan to a published model.

    docker run --gpus all -v model_repository:/models ... python3 -m builder plan --repository /models --model shapes

The next version holds all of the newest one, the new plan, and configurations that name it. Several GPUs of a fleet may
do so at the same time: what another has published meanwhile is taken over.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.console import DEFAULT_REPOSITORY, show_progress
from builder.errors import RepositoryError, SpecError
from builder.graph_cost import graph_cost
from builder.memory import MemoryBudget, engine_difference, memory_budget, with_engine

if TYPE_CHECKING:
    from builder.cache import Stage
    from builder.deployment import Deployment
    from builder.engine import HardwareCompatibility
    from builder.gpus import GpuTarget
    from builder.plan_building import BuildPlan, Machine, Progress
    from builder.plans import PlanFile
    from builder.repository import PublishedVersion, VersionContent
    from builder.serving import GpuServing


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = command.add_argument
    add("--repository", type=Path, default=DEFAULT_REPOSITORY)
    add("--model", help="the model's name (default: the only one)")
    add("--gpu", help="this machine's GPU, where it has several kinds (default: what the driver says)")
    add("--triton", help="the release that will serve, such as 26.09: its TensorRT must be this machine's")
    add("--cache", type=Path, help="where plans and timings are kept (default: the user's cache folder)")
    add("--json", action="store_true", help="print what was done as JSON on stdout")


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedPlan:
    """A plan that was published."""

    plan: PlanFile
    stage: Stage
    estimate: MemoryBudget
    """What it was thought to take."""
    published: PublishedVersion
    waiting: tuple[GpuServing, ...]
    """GPUs of the fleet that have no plan yet."""


def run(arguments: argparse.Namespace) -> int:
    """Build the plan, publish it and say so.

    Raises:
        BuilderError: a subclass by what went wrong; the repository is then as it was.
    """
    from builder.cache import StageCache
    from builder.gpus import find_gpu
    from builder.plan_building import check_tensorrt, this_machine
    from builder.releases import find_release
    from builder.signals import interrupted_by

    release = find_release(arguments.triton) if arguments.triton else None
    name = arguments.model or _only_model(arguments.repository)
    with interrupted_by(signal.SIGINT, signal.SIGTERM) as interruption:
        machine = this_machine(find_gpu(arguments.gpu) if arguments.gpu else None)
        check_tensorrt(machine.tensorrt, release)
        # A plan that is found in the cache is published with no step to be told of.
        interruption.check()

        def tell(what: str, done: int, total: int) -> None:
            interruption.check()
            show_progress(what, done, total)

        added = add_plan(
            arguments.repository,
            name,
            machine,
            cache=StageCache(arguments.cache),
            triton=release.name if release else None,
            progress=tell,
        )
    for line in lines(added):
        print(line, file=sys.stderr if arguments.json else sys.stdout)
    if arguments.json:
        print(json.dumps({"version": added.published.version, "plan": added.plan.record.to_json()}))
    return 0


def add_plan(
    repository: Path,
    name: str,
    machine: Machine,
    *,
    cache: Any,
    triton: str | None = None,
    progress: Progress = lambda what, done, total: None,
    build: BuildPlan | None = None,
) -> AddedPlan:
    """Build the plan of this machine's GPU for the newest version of ``name`` and publish the next one with it.

    Raises:
        RepositoryError: there is no such model, it is damaged, or a newer version has another graph meanwhile.
        SpecError: the model was not built for this GPU.
        BuilderError: the compiler refuses the graph.
    """
    from builder import engine
    from builder.deployment import deployment_of, version_content, without_plan
    from builder.plan_building import make_plan
    from builder.plans import published_plans
    from builder.repository import publish_content

    model = repository / name
    folder, manifest = _newest(model)
    deployment = deployment_of(name, folder, manifest)
    if machine.gpu.name not in (each.gpu.name for each in deployment.fleet):
        known = [each.gpu.name for each in deployment.fleet]
        raise SpecError(
            f"{name} was built for {', '.join(known)}, this machine's GPU is {machine.gpu.name}; build it for that one "
            f"too: python -m builder build --gpu {' --gpu '.join([*known, machine.gpu.name])}, the rest as before"
        )
    compatibility, level = _options(manifest)
    made, stage = make_plan(
        cache,
        deployment.model,
        deployment.fleet,
        machine,
        compatibility=compatibility,
        optimization_level=level,
        triton=triton,
        progress=progress,
        build=build or engine.build_plan,
    )
    plans: dict[str, PlanFile] = {}

    def content() -> VersionContent:
        # Another GPU of the fleet may have published its plan while this one was being built.
        newest, build_of_newest = _newest(model)
        if build_of_newest["graph"] != manifest["graph"]:
            raise RepositoryError(
                f"{newest} was published while the plan was being built, and has another graph; run this again."
            )
        latest = deployment_of(name, newest, build_of_newest)
        plans.update(published_plans(model, latest.model.sha256, latest.fleet, compatibility))
        plans[made.record.file] = made
        kept = (path for path in newest.rglob("*") if path.is_file() and not path.name.startswith("."))
        files = {path.relative_to(newest).as_posix(): path for path in kept}
        own = ("manifest.json", "configs/", "__pycache__/")
        files = {path: source for path, source in files.items() if not path.startswith(own)}
        return version_content(latest, plans, compatibility, files=files, build=build_of_newest)

    published = publish_content(repository, name, content)
    waiting = tuple(without_plan(deployment.fleet, plans))
    estimate = _estimate(deployment, machine.gpu)
    return AddedPlan(plan=made, stage=stage, estimate=estimate, published=published, waiting=waiting)


def _estimate(deployment: Deployment, gpu: GpuTarget) -> MemoryBudget:
    settings = next(each.settings for each in deployment.fleet if each.gpu.name == gpu.name)
    cost = graph_cost(deployment.model.path)
    return memory_budget(cost, deployment.model, gpu, batch=settings.max_batch, instances=settings.instances)


def _newest(model: Path) -> tuple[Path, Mapping[str, Any]]:
    """The newest version's folder and what its manifest says of the build."""
    from builder.manifest import check_version, read_manifest, versions_of

    versions = versions_of(model)
    if not versions:
        raise RepositoryError(f"expected a published model at {model}, there is none; run: python -m builder build")
    folder = model / str(versions[0])
    if messages := check_version(folder).messages:
        raise RepositoryError(f"{folder} is not as it was published: {'; '.join(messages)}; build it again.")
    build: Mapping[str, Any] = read_manifest(folder)["build"]
    return folder, build


def _options(build: Mapping[str, Any]) -> tuple[HardwareCompatibility, int | None]:
    from builder.engine import HardwareCompatibility

    spec = build["spec"]
    return HardwareCompatibility(spec["hardware_compatibility"]), spec["optimization_level"]


def _only_model(repository: Path) -> str:
    names = sorted(path.name for path in repository.glob("*/") if _is_detector(path))
    if len(names) != 1:
        raise SpecError(
            f"--repository {repository} holds {', '.join(names) or 'no published model'}; name one with --model."
        )
    return names[0]


def _is_detector(model: Path) -> bool:
    """Whether it was built from weights, and not published beside such a one."""
    from builder.manifest import read_manifest, versions_of

    try:
        return any("graph" in read_manifest(model / str(version))["build"] for version in versions_of(model)[:1])
    except (RepositoryError, KeyError, TypeError):
        return False


def lines(added: AddedPlan) -> list[str]:
    """What is worth knowing of an added plan."""
    record, stage = added.plan.record, added.stage
    how = "unchanged, reused" if stage.reused else f"{stage.seconds:.1f} s"
    told = [f"{record.file}: TensorRT {record.version} on {record.device}, {how}"]
    if record.device_memory_bytes is not None:
        measured = with_engine(added.estimate, record.device_memory_bytes)
        told.append(engine_difference(added.estimate, measured))
    told.append(f"{'published' if added.published.changed else 'unchanged'}: {added.published.path}")
    if added.waiting:
        names = ", ".join(each.gpu.name for each in added.waiting)
        told.append(f"config.pbtxt serves model.onnx until {names} have their plans; configs/<gpu>.pbtxt serve theirs")
    else:
        told.append("config.pbtxt serves the plans: every GPU that the model was built for has one")
    return told
