"""Every fleet that flags of ``build`` can ask for, and how each would be deployed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from builder.artifacts import CpuPrecision, Head, OnnxModel, TensorSpec
from builder.deployment import Deployment
from builder.engine import HardwareCompatibility
from builder.gpus import find_gpu, mig_slices, supported_names
from builder.graph_cost import GraphCost
from builder.plans import check_fleet, plan_file
from builder.serving import CpuServing, GpuServing
from builder.sizing import size
from builder.spec import BuildSpec

GPUS = (*supported_names(), *mig_slices())
CLASS_NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)


@st.composite
def build_flags(draw: st.DrawFn) -> dict[str, Any]:
    """Flags as the command line gives them: text, and only those that were given."""
    optional = {
        "sla_ms": st.floats(0.5, 500),
        "max_batch": st.integers(1, 64) | st.integers(1, 256),
        "instances": st.integers(1, 4) | st.integers(1, 16),
        "max_queue_delay_us": st.integers(0, 1_000_000),
        "max_queue_size": st.just(0) | st.integers(256, (1 << 32) - 1) | st.integers(0, 300),
        "queue_timeout_ms": st.just(0) | st.integers(1, 10_000) | st.integers(0, 24 * 3600 * 1000),
        "priority_levels": st.integers(0, 16),
        "head": st.sampled_from(Head),
        "cpu_precision": st.sampled_from(CpuPrecision),
        "max_detections": st.integers(1, 2000),
        "hardware_compatibility": st.sampled_from(HardwareCompatibility),
        "optimization_level": st.integers(0, 5),
        "weights": st.sampled_from(("a.pt", "b.onnx")),
    }
    flags = {name: str(value) for name, value in draw(st.fixed_dictionaries({}, optional=optional)).items()}
    if "weights" in flags:
        flags["weights"] = Path(flags["weights"])
    return flags | {"gpu": draw(st.lists(st.sampled_from(GPUS), min_size=1, max_size=4, unique=True))}


def deployed(
    flags: Mapping[str, Any],
    model: OnnxModel,
    cost: GraphCost,
    *,
    name: str = "model",
    classes: tuple[str, ...] = ("circle",),
    with_plan: bool | frozenset[str] = False,
) -> tuple[BuildSpec, Deployment]:
    """The request, and the deployment as ``build`` makes it of a graph; ``with_plan``: the GPUs that have their plan.

    Raises:
        BuilderError: such a fleet is refused.
    """
    spec = BuildSpec.from_sources(flags, None)
    gpus = check_fleet([find_gpu(gpu) for gpu in spec.gpu], spec.hardware_compatibility)
    if spec.head is Head.DETECTIONS:
        detections = TensorSpec(name="detections", dtype="FP32", shape=(spec.max_detections, 6))
        model = dataclasses.replace(model, outputs=(detections,))
    fleet = []
    for gpu in gpus:
        sizing = size(cost, model, gpu, spec.serving_request)
        has_plan = with_plan if isinstance(with_plan, bool) else gpu.name in with_plan
        plan = plan_file(gpu, spec.hardware_compatibility) if has_plan else None
        workspace = sizing.budget.workspace_bytes
        fleet.append(GpuServing(gpu=gpu, settings=sizing.settings, workspace_bytes=workspace, plan=plan))
    deployment = Deployment(
        name=name,
        model=model,
        head=spec.head,
        classes=classes,
        cpu=CpuServing(precision=spec.cpu_precision),
        fleet=tuple(fleet),
        parameters={"metadata": json.dumps({"stride": 32})} if spec.head is Head.RAW else {},
    )
    on_cpu = dataclasses.replace(deployment.whole_fleet, instances=1)
    return spec, dataclasses.replace(deployment, cpu=CpuServing(settings=on_cpu, precision=spec.cpu_precision))
