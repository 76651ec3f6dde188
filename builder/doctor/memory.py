"""Whether a GPU has the memory for the instances that a configuration asks for, by the manifest's own figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from builder.doctor.findings import Finding, Target, fails
from builder.doctor.graph import BACKENDS
from builder.doctor.model import Config, Model
from builder.memory import GB, MemoryBudget


def check_memory(model: Model, config: Config, target: Target) -> Iterator[Finding]:
    """A finding for each GPU that cannot hold the instances; a model without such figures is not judged.

    TensorRT's instances share their weights, onnxruntime's do not. The workspace is a ceiling, and left out.
    """
    backend = model.backend(config)
    if config.error is not None or config.on_cpu or backend not in BACKENDS:
        return
    count = _most_on_one_gpu(config)
    for version in model.loaded(config):
        for gpu in config.gpus(version, target):
            budget = _budget(version.build, gpu.name)
            if budget is None:
                continue
            smaller = min(1.0, max(1, config.message.max_batch_size) / budget.batch)
            moving = smaller * (budget.input_bytes + budget.output_bytes + budget.activation_bytes)
            weights = budget.weight_bytes * (1 if backend == "tensorrt" else count)
            needed = weights + moving * count
            if needed > budget.capacity_bytes:
                shared = weights if backend == "tensorrt" else 0
                most = int((budget.capacity_bytes - shared) // ((needed - shared) / count))
                what = (
                    f"{count} instances take {needed / GB:.1f} GB by the manifest's figures, workspace aside, and "
                    f"{gpu.name} has {budget.capacity_bytes / GB:.1f} GB: out of memory"
                )
                fix = f"set count to {most} at most" if most > 0 else "lower max_batch_size, or take a larger GPU"
                yield fails("memory", config.where, what, f"{fix}: python -m builder memory tells what fits")


def _most_on_one_gpu(config: Config) -> int:
    """How many instances one GPU gets; a group that names no GPU puts its instances on each."""
    groups = [each for each in config.message.instance_group if each.Kind.Name(each.kind) in ("KIND_GPU", "KIND_AUTO")]
    devices = {gpu for group in groups for gpu in group.gpus} or {0}
    counts = [
        sum(max(1, group.count) for group in groups if not group.gpus or device in group.gpus) for device in devices
    ]
    return int(max(1, *counts))


def _budget(build: Mapping[str, Any], gpu: str) -> MemoryBudget | None:
    """What the manifest says of a GPU's memory, where it says it in figures that can be."""
    gpus = build.get("gpus")
    values = gpus.get(gpu) if isinstance(gpus, dict) else None
    memory = values.get("memory") if isinstance(values, dict) else None
    try:
        budget = MemoryBudget.from_json(memory) if isinstance(memory, dict) else None
    except KeyError:
        return None
    if budget is None:
        return None
    sizes = (budget.weight_bytes, budget.input_bytes, budget.output_bytes, budget.activation_bytes)
    whole = all(isinstance(each, int) and each >= 0 for each in sizes)
    positive = all(isinstance(each, int) and each > 0 for each in (budget.batch, budget.capacity_bytes))
    return budget if whole and positive else None
