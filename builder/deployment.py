"""One model as it is served everywhere: what the configurations are made from, and what a manifest gives back.

A version is published without plans where no GPU is at hand. A plan that is built later, on its own GPU, needs the same
deployment again: the manifest holds all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.artifacts import CpuPrecision, Head, NetworkModel, OnnxModel, TensorSpec
from builder.config_pbtxt import config_files
from builder.engine import HardwareCompatibility
from builder.errors import RepositoryError, SpecError
from builder.gpus import find_gpu
from builder.memory import MemoryBudget, with_engine
from builder.plans import PlanFile, with_plans
from builder.repository import VersionContent
from builder.serving import CpuServing, GpuServing, ServingSettings, settings_for_all

if TYPE_CHECKING:
    from builder.artifacts import ConfigFile

GRAPH_FILE = "model.onnx"


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """One model as it is served everywhere."""

    name: str
    model: OnnxModel
    head: Head
    classes: tuple[str, ...]
    """In order of class id."""
    cpu: CpuServing
    fleet: tuple[GpuServing, ...]
    """At least one GPU."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """What a client reads from the server besides classes and contract."""

    def __post_init__(self) -> None:
        """Check that everything can be warmed up.

        Raises:
            SpecError: an input's size is not fixed, so it can neither be warmed up nor given an optimization profile.
        """
        assert self.fleet, "a deployment has at least one GPU"
        for spec in self.model.inputs:
            if any(size < 1 for size in spec.shape):
                raise SpecError(
                    f"input {spec.name}: expected a fixed size, got {list(spec.shape)}; export with one image size, "
                    f"since warmup and TensorRT's optimization profile need it"
                )

    @property
    def whole_fleet(self) -> ServingSettings:
        """What every GPU of the fleet can take."""
        return settings_for_all([each.settings for each in self.fleet])

    def configs(self, version: int) -> tuple[ConfigFile, ...]:
        """The configurations of version ``version``."""
        return config_files(self, version)


def parameters_of(network: NetworkModel, head: Head) -> dict[str, str]:
    """What a client reads from the server besides classes and contract; Ultralytics' needs a Python literal."""
    if head is not Head.RAW:
        return {}
    metadata = {
        "task": "detect",
        "stride": max(network.strides),
        "imgsz": list(network.imgsz),
        "names": dict(enumerate(network.names)),
        "batch": 1,
        "channels": 3,
        "end2end": network.nms_free,
    }
    return {"metadata": repr(metadata)}


def serving_to_json(serving: GpuServing) -> dict[str, Any]:
    """What a manifest holds of one GPU's serving; its plan is told apart."""
    return {
        "compute_capability": serving.gpu.compute_capability,
        "settings": dataclasses.asdict(serving.settings),
        "workspace_bytes": serving.workspace_bytes,
    }


def graph_to_json(model: OnnxModel) -> dict[str, Any]:
    """What a manifest holds of the served graph."""
    tensors = {
        "inputs": [dataclasses.asdict(spec) for spec in model.inputs],
        "outputs": [dataclasses.asdict(spec) for spec in model.outputs],
    }
    return {"file": GRAPH_FILE, "sha256": model.sha256, **tensors}


def deployment_of(name: str, folder: Path, build: Mapping[str, Any]) -> Deployment:
    """The deployment of a published version, from its manifest's ``build``; no GPU has its plan yet.

    Raises:
        RepositoryError: the manifest is of a release that did not keep it.
    """
    try:
        network = NetworkModel.from_json(dict(build["network"]), folder / GRAPH_FILE)
        head, graph, cpu = Head(build["spec"]["head"]), build["graph"], build["cpu"]
        return Deployment(
            name=name,
            model=OnnxModel(
                path=folder / GRAPH_FILE,
                sha256=graph["sha256"],
                inputs=_tensors(graph["inputs"]),
                outputs=_tensors(graph["outputs"]),
            ),
            head=head,
            classes=network.names,
            cpu=CpuServing(
                settings=ServingSettings(**cpu["settings"]),
                inference_threads=cpu["inference_threads"],
                precision=CpuPrecision(cpu["precision"]),
            ),
            fleet=tuple(
                GpuServing(
                    gpu=find_gpu(gpu),
                    settings=ServingSettings(**values["settings"]),
                    workspace_bytes=values["workspace_bytes"],
                )
                for gpu, values in build["gpus"].items()
            ),
            parameters=parameters_of(network, head),
        )
    except (KeyError, TypeError, ValueError, SpecError) as e:
        raise RepositoryError(
            f"{folder}: its manifest does not say how it is served ({type(e).__name__}: {e}): published by an older "
            "release of this project; run the build again"
        ) from e


def version_content(
    deployment: Deployment,
    plans: Mapping[str, PlanFile],
    compatibility: HardwareCompatibility,
    *,
    files: Mapping[str, Path | bytes],
    build: Mapping[str, Any],
) -> VersionContent:
    """What is published: the files and the plans, configurations that name them, and the manifest's ``build``."""
    served = dataclasses.replace(deployment, fleet=with_plans(deployment.fleet, plans, compatibility))
    records = [plans[file].record for file in sorted(plans)]
    measured = {gpu: record.device_memory_bytes for record in records for gpu in record.gpus}
    gpus = {gpu: {**values, **_memory(values, measured.get(gpu))} for gpu, values in build.get("gpus", {}).items()}
    return VersionContent(
        files={**files, **{file: plan.path for file, plan in plans.items()}},
        configs=served.configs,
        build={**build, "gpus": gpus, "plans": [record.to_json() for record in records]},
    )


def _memory(values: Mapping[str, Any], device_memory_bytes: int | None) -> dict[str, Any]:
    """A GPU's budget with the engine's own figure, where there is an engine that tells it."""
    if device_memory_bytes is None:
        return {}
    return {"memory": with_engine(MemoryBudget.from_json(values["memory"]), device_memory_bytes).to_json()}


def without_plan(fleet: Sequence[GpuServing], plans: Mapping[str, PlanFile]) -> list[GpuServing]:
    """The GPUs that have no plan yet."""
    covered = {gpu for plan in plans.values() for gpu in plan.record.gpus}
    return [each for each in fleet if each.gpu.name not in covered]


def _tensors(values: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=v["name"], dtype=v["dtype"], shape=tuple(v["shape"])) for v in values)
