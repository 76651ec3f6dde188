"""What serving a graph takes of a GPU's memory, before it is built, and whether it fits. GB are 10^9 bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import MemoryBudgetError

if TYPE_CHECKING:
    from builder.artifacts import OnnxModel, TensorSpec
    from builder.gpus import GpuTarget
    from builder.graph_cost import GraphCost

ESTIMATED, FROM_ENGINE = "estimated", "engine"
KEPT_FREE = 0.3
"""The part of a GPU's memory that a fleet plans to leave free: the CUDA context, Triton, fragmentation, a second
version while it is loaded."""
GB = 10**9


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryBudget:
    """What the instances of a model take on one GPU; the parts are of one instance."""

    weight_bytes: int
    input_bytes: int
    output_bytes: int
    activation_bytes: int
    workspace_bytes: int
    """0 where the engine's own figure holds it."""
    batch: int
    instances: int
    capacity_bytes: int
    source: str = ESTIMATED
    """``estimated`` from the graph, or ``engine``: activations and scratch as TensorRT says."""

    @property
    def instance_bytes(self) -> int:
        """Of one instance."""
        io_bytes = self.input_bytes + self.output_bytes
        return self.weight_bytes + io_bytes + self.activation_bytes + self.workspace_bytes

    @property
    def total_bytes(self) -> int:
        """Of all instances; each is taken to have its own weights, as onnxruntime's have. TensorRT's share them."""
        return self.instances * self.instance_bytes

    @property
    def free_bytes(self) -> int:
        """What is left of the GPU; below 0 where it does not fit."""
        return self.capacity_bytes - self.total_bytes

    @property
    def free_share(self) -> float:
        """The same as a part of the GPU's memory."""
        return self.free_bytes / self.capacity_bytes

    @property
    def fits(self) -> bool:
        """Whether the GPU has that much memory."""
        return self.free_bytes >= 0

    @property
    def roomy(self) -> bool:
        """Whether as much is left free as a fleet should plan with."""
        return self.free_share >= KEPT_FREE

    def to_json(self) -> dict[str, Any]:
        """Plain values, the sums among them."""
        sums = {
            "instance_bytes": self.instance_bytes,
            "total_bytes": self.total_bytes,
            "free_bytes": self.free_bytes,
            "fits": self.fits,
        }
        return dataclasses.asdict(self) | sums

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MemoryBudget:
        """What ``to_json`` gave, read back from JSON."""
        return cls(**{each.name: values[each.name] for each in dataclasses.fields(cls)})


def workspace_bytes(layers: int, batch: int, left_bytes: int | None = None) -> int:
    """Scratch memory for the kernels, capped by what the GPU has left: a ceiling for TensorRT, not a reservation.

    1 GB x (1 + 0.15 x L) x batch factor, L = layers / 100, batch factor 1.3 above batch 8, else 1. A rule from
    practice, whose source works it out as 2.1 GB for 152 layers at batch 16; that does not follow: the formula gives
    1.6 GB, and it is the formula that is used here.
    """
    wanted = round(GB * (1 + 0.15 * layers / 100) * (1.3 if batch > 8 else 1.0))
    return wanted if left_bytes is None else max(0, min(wanted, left_bytes))


def memory_budget(cost: GraphCost, model: OnnxModel, gpu: GpuTarget, *, batch: int, instances: int) -> MemoryBudget:
    """The estimate; its workspace is at most an instance's share of what the rest leaves."""
    capacity = round(gpu.memory_gb * GB)
    bare = MemoryBudget(
        weight_bytes=cost.weight_bytes,
        input_bytes=_tensor_bytes(model.inputs, batch),
        output_bytes=_tensor_bytes(model.outputs, batch),
        activation_bytes=cost.activation_bytes(batch),
        workspace_bytes=0,
        batch=batch,
        instances=instances,
        capacity_bytes=capacity,
    )
    left = bare.free_bytes // instances
    return dataclasses.replace(bare, workspace_bytes=workspace_bytes(cost.layers, batch, left))


def check_fits(cost: GraphCost, model: OnnxModel, gpu: GpuTarget, *, batch: int, instances: int) -> MemoryBudget:
    """The estimate, where it fits; it may still leave less free than a fleet should plan with: see ``roomy``.

    Raises:
        MemoryBudgetError: it does not fit; it names the largest batch and the most instances that would.
    """

    def fits(batch: int, instances: int) -> bool:
        return memory_budget(cost, model, gpu, batch=batch, instances=instances).fits

    budget = memory_budget(cost, model, gpu, batch=batch, instances=instances)
    if budget.fits:
        return budget
    largest_batch = _most(lambda each: fits(each, instances), batch)
    most_instances = _most(lambda each: fits(batch, each), instances)
    ways = [f"--max-batch {largest_batch} with {_instances(instances)}"] if largest_batch else []
    ways += [f"--instances {most_instances} with a batch of {batch}"] if most_instances else []
    if not ways:
        most_alone = _most(lambda each: fits(each, 1), batch)
        ways = [f"--max-batch {most_alone} --instances 1"] if most_alone else []
    advice = f"the most that fits: {', or '.join(ways)}" if ways else "not even one image fits: take a larger GPU"
    raise MemoryBudgetError(
        f"{gpu.name}: expected at most {gpu.memory_gb:g} GB, got {budget.total_bytes / GB:.2f} GB for "
        f"{_instances(instances)} at batch {batch}, workspace aside; {advice}."
    )


def with_engine(budget: MemoryBudget, device_memory_bytes: int) -> MemoryBudget:
    """The budget with the engine's own figure, which is of activations and scratch, in place of both estimates."""
    return dataclasses.replace(budget, activation_bytes=device_memory_bytes, workspace_bytes=0, source=FROM_ENGINE)


def check_engine_fits(budget: MemoryBudget, device_memory_bytes: int, gpu: GpuTarget) -> None:
    """Pass where the instances fit with what a compiler says that its engine takes.

    Raises:
        MemoryBudgetError: they do not; it names how many would.
    """
    engine = with_engine(budget, device_memory_bytes)
    if engine.fits:
        return
    most = engine.capacity_bytes // engine.instance_bytes
    advice = f"take --instances {most}, or smaller batches" if most else "take smaller batches, or a larger GPU"
    raise MemoryBudgetError(
        f"{gpu.name}: expected at most {gpu.memory_gb:g} GB, got {engine.total_bytes / GB:.2f} GB for "
        f"{_instances(budget.instances)} at batch {budget.batch}: the compiled engine takes "
        f"{device_memory_bytes / 1e6:.0f} MB for activations and scratch, {budget.activation_bytes / 1e6:.0f} MB of "
        f"activations were estimated; {advice}."
    )


def engine_difference(estimate: MemoryBudget, engine: MemoryBudget) -> str:
    """A line that compares the two."""
    taken, expected = engine.activation_bytes, estimate.activation_bytes
    off = f" ({expected / taken - 1:+.0%})" if taken else ""
    return (
        f"the engine takes {taken / 1e6:,.1f} MB for activations and scratch at batch {engine.batch}; estimated were "
        f"{expected / 1e6:,.1f} MB of activations{off} and up to {estimate.workspace_bytes / 1e6:,.1f} MB of workspace"
    )


def planned_instances(cost: GraphCost, model: OnnxModel, gpu: GpuTarget, batch: int) -> int:
    """How many instances, each with the whole workspace of the formula, leave ``KEPT_FREE`` of the memory."""
    one = memory_budget(cost, model, gpu, batch=batch, instances=1)
    whole = dataclasses.replace(one, workspace_bytes=workspace_bytes(cost.layers, batch))
    return int(one.capacity_bytes * (1 - KEPT_FREE) // whole.instance_bytes)


def _most(fits: Callable[[int], bool], below: int) -> int:
    """The largest number from 1 to below ``below`` that fits, where each smaller one does too; 0 where none does."""
    fitting, failing = 0, below
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        fitting, failing = (middle, failing) if fits(middle) else (fitting, middle)
    return fitting


def _instances(count: int) -> str:
    return "1 instance" if count == 1 else f"{count} instances"


def _tensor_bytes(specs: Iterable[TensorSpec], batch: int) -> int:
    """Of tensors with known sizes; Triton's types carry their bits in their names."""
    return sum(
        batch * math.prod(spec.shape) * int("".join(filter(str.isdigit, spec.dtype)) or 8) // 8 for spec in specs
    )
