"""The way of the data: weights go in, a version of a Triton model repository comes out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.artifacts import OnnxModel
from builder.backends import openvino_model_path
from builder.cache import Stage, file_sha256, tool_versions
from builder.deployment import (
    GRAPH_FILE,
    Deployment,
    graph_to_json,
    parameters_of,
    serving_to_json,
    version_content,
    without_plan,
)
from builder.engine import Library, what_is_missing
from builder.ensemble import ExtraModel, encoded_models
from builder.errors import BuilderError, SpecError
from builder.gpus import find_gpu
from builder.graph_cost import graph_cost
from builder.judging import REPORT_FILE
from builder.memory import check_engine_fits
from builder.nvml import NoGpuError, read_devices
from builder.plan_building import check_tensorrt, make_plan, this_machine
from builder.plans import PlanFile, check_fleet, published_plans
from builder.proof import Proven, judging_data, prove
from builder.releases import DEFAULT_RELEASE, find_release, releases
from builder.repository import PublishedVersion, VersionContent, check_model_name, check_target, publish_content
from builder.serving import CpuServing, GpuServing, settings_for_all
from builder.sizing import Sizing, size
from builder.stages import IMAGE_TOOLS, PRECISION_TOOLS, Stages
from builder.training_run import Origin, origin_of
from builder.weights import find_weights
from clients.encoded import model_names

if TYPE_CHECKING:
    from builder.compile_check import CompileCheck
    from builder.gpus import GpuTarget
    from builder.releases import TritonRelease
    from builder.spec import BuildSpec


_PLACES = ("repository", "cache", "images", "data", "calibration", "run_record")
"""Where things lie on the building machine, which says nothing of the build."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """What a build did."""

    spec: BuildSpec
    release: TritonRelease
    origin: Origin
    """The training that the weights came from, where it is known."""
    proven: Proven
    parity: dict[str, Any]
    deployment: Deployment
    sizings: Mapping[str, Sizing]
    """By GPU."""
    compile_checks: Mapping[str, CompileCheck]
    """By GPU."""
    plans: Mapping[str, PlanFile]
    """By file name; those taken over from the version before included."""
    no_plan_here: str
    """Why this machine, which has a GPU of the fleet, built no plan; empty where it did, or has none."""
    waiting: tuple[GpuServing, ...]
    """The GPUs that have no plan yet."""
    stages: tuple[Stage, ...]
    published: PublishedVersion
    beside: tuple[PublishedVersion, ...]
    """The models by which it takes encoded images, where they were asked for."""


def build(
    spec: BuildSpec,
    report: Callable[[Stage], None],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Build:
    """Build and publish one version; ``report`` is called as each stage ends, ``progress`` while one takes long.

    Raises:
        BuilderError: a subclass by what went wrong; the repository is then as it was.
    """
    gpus = check_fleet([find_gpu(name) for name in spec.gpu], spec.hardware_compatibility)
    release = _release(spec, gpus)
    for name in (spec.model_name, *(model_names(spec.model_name) if spec.encoded else ())):
        check_model_name(name)
    stages = Stages(spec=spec, weights=find_weights(spec.weights), report=report, progress=progress)
    # What is wrong with the request shall be told before anything takes long.
    check_target(spec.repository)
    origin = origin_of(stages.weights, stages.weights_sha256, spec.run_record)
    data = judging_data(spec.data) if spec.data else None
    original = stages.network()
    if data is not None:
        _sizings(stages.served(original), gpus, spec)
    proven = prove(stages, original, data)
    sizings = _sizings(proven.model, gpus, spec)
    parity = stages.parity(original, proven.network, proven.model)
    deployment = _deployment(spec, proven, gpus, sizings)
    checks = stages.compile_checks(proven.model, deployment.fleet)
    _check_compiled(deployment, sizings, checks)
    built, no_plan_here = _plan_here(stages, deployment, release)
    manifest = _manifest(stages, proven, deployment, sizings, checks) | {"parity": parity}
    if origin.training:
        manifest["training"] = origin.training
    plans: dict[str, PlanFile] = {}

    def content() -> VersionContent:
        model = spec.repository / spec.model_name
        plans.update(published_plans(model, proven.model.sha256, deployment.fleet, spec.hardware_compatibility))
        plans.update(built)
        return version_content(
            deployment,
            plans,
            spec.hardware_compatibility,
            files={
                GRAPH_FILE: proven.model.path,
                "model.py": openvino_model_path(),
                "labels.txt": "".join(f"{name}\n" for name in proven.network.names).encode(),
                **({REPORT_FILE: proven.report} if proven.report else {}),
            },
            build=manifest,
        )

    published = publish_content(spec.repository, spec.model_name, content)
    # Last, and each after those that it needs: an ensemble shall name no model that is not there.
    beside = [publish_content(spec.repository, each.name, each.content) for each in _encoded(spec, deployment)]
    return Build(
        spec=spec,
        release=release,
        origin=origin,
        proven=proven,
        parity=parity,
        deployment=deployment,
        sizings=sizings,
        compile_checks=checks,
        plans=plans,
        no_plan_here=no_plan_here,
        waiting=tuple(without_plan(deployment.fleet, plans)),
        stages=tuple(stages.done),
        published=published,
        beside=tuple(beside),
    )


def _release(spec: BuildSpec, gpus: tuple[GpuTarget, ...]) -> TritonRelease:
    """The release that will serve: the one asked for, or the newest that is known to run on every GPU of the fleet.

    Raises:
        SpecError: the one asked for does not run on one of them.
    """
    if spec.triton is None:
        newest_first = [
            each for each in reversed([*releases().values()]) if each.known and each.name <= DEFAULT_RELEASE
        ]
        return next((each for each in newest_first if not _without(each, gpus)), find_release(DEFAULT_RELEASE))
    release = find_release(spec.triton)
    for gpu in _without(release, gpus):
        raise SpecError(
            f"--triton {release.name}: it does not run on compute capability {gpu.compute_capability}, which "
            f"{gpu.name} has; leave it out, or name one that does"
        )
    return release


def _without(release: TritonRelease, gpus: tuple[GpuTarget, ...]) -> list[GpuTarget]:
    """The GPUs that the release is known not to run on."""
    return [gpu for gpu in gpus if release.takes(gpu.compute_capability) is False]


def _sizings(model: OnnxModel, gpus: tuple[GpuTarget, ...], spec: BuildSpec) -> dict[str, Sizing]:
    """How each GPU serves the graph.

    Raises:
        MemoryBudgetError: it cannot.
    """
    cost = graph_cost(model.path)
    return {gpu.name: size(cost, model, gpu, spec.serving_request) for gpu in gpus}


def _check_compiled(deployment: Deployment, sizings: Mapping[str, Sizing], checks: Mapping[str, CompileCheck]) -> None:
    """Pass where the instances fit with what the compiler says that its engine takes; it may be more than estimated.

    Raises:
        MemoryBudgetError: they do not.
    """
    for each in deployment.fleet:
        takes = checks[each.gpu.name].activation_bytes
        if takes is not None:
            check_engine_fits(sizings[each.gpu.name].budget, takes, each.gpu)


def _deployment(
    spec: BuildSpec, proven: Proven, gpus: tuple[GpuTarget, ...], sizings: Mapping[str, Sizing]
) -> Deployment:
    fleet = tuple(
        GpuServing(
            gpu=gpu,
            settings=sizings[gpu.name].settings,
            workspace_bytes=sizings[gpu.name].budget.workspace_bytes,
        )
        for gpu in gpus
    )
    # A CPU's queue is the fleet's: who calls it shall see no difference but the speed.
    on_cpu = dataclasses.replace(settings_for_all([each.settings for each in fleet]), instances=1)
    return Deployment(
        name=spec.model_name,
        model=proven.model,
        head=spec.head,
        classes=proven.network.names,
        cpu=CpuServing(settings=on_cpu, precision=spec.cpu_precision),
        fleet=fleet,
        parameters=parameters_of(proven.network, spec.head),
    )


def _encoded(spec: BuildSpec, deployment: Deployment) -> tuple[ExtraModel, ...]:
    return encoded_models(deployment) if spec.encoded else ()


def _plan_here(stages: Stages, deployment: Deployment, release: TritonRelease) -> tuple[dict[str, PlanFile], str]:
    """The plan of this machine's GPU, where it is one of the fleet's and has TensorRT; else why there is none."""
    spec = stages.spec
    try:
        read_devices()
    except NoGpuError:
        return {}, ""
    try:
        machine = this_machine()
        check_tensorrt(machine.tensorrt, release)
    except BuilderError as e:
        missing = what_is_missing(Library.TENSORRT)
        return {}, missing or str(e)
    if machine.gpu.name not in (each.gpu.name for each in deployment.fleet):
        return {}, ""
    made, stage = make_plan(
        stages.cache,
        deployment.model,
        deployment.fleet,
        machine,
        compatibility=spec.hardware_compatibility,
        optimization_level=spec.optimization_level,
        triton=release.name,
        progress=stages.progress,
    )
    stages.tell(stage)
    return {made.record.file: made}, ""


def _manifest(
    stages: Stages,
    proven: Proven,
    deployment: Deployment,
    sizings: Mapping[str, Sizing],
    checks: Mapping[str, CompileCheck],
) -> dict[str, Any]:
    """From what, with what and how well the version was built; nothing that a rebuild would not reproduce."""
    spec, network = stages.spec, proven.network
    request = spec.model_dump(mode="json", exclude={*_PLACES})
    names = [each.gpu.name for each in deployment.fleet]
    return {
        "spec": request | {"weights": stages.weights.name, "name": spec.model_name, "gpu": names},
        "weights": {"file": stages.weights.name, "sha256": stages.weights_sha256},
        "parity_images": [{"file": i.name, "sha256": file_sha256(i)} for i in stages.images],
        "network": network.to_json(),
        "graph": graph_to_json(proven.model),
        "cpu": dataclasses.asdict(deployment.cpu),
        "gpus": {
            each.gpu.name: {
                **serving_to_json(each),
                "memory": sizings[each.gpu.name].budget.to_json(),
                "estimate": sizings[each.gpu.name].to_json(),
                "compile_check": _check_to_json(checks[each.gpu.name]),
            }
            for each in deployment.fleet
        },
        "quantization": proven.quantization,
        "accuracy": proven.accuracy,
        "tools": tool_versions(sorted({*PRECISION_TOOLS, *IMAGE_TOOLS, "tritonclient"})),
    }


def _check_to_json(check: CompileCheck) -> dict[str, Any]:
    return {name: getattr(check, name) for name in ("outcome", "message", "version", "activation_bytes")}
