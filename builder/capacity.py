"""How many camera streams one GPU serves, by its memory and by its time: an estimate to plan with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from builder.memory import KEPT_FREE, MemoryBudget, memory_budget, planned_instances
from builder.service_time import service_time_ms

if TYPE_CHECKING:
    from builder.artifacts import OnnxModel
    from builder.gpus import GpuTarget
    from builder.graph_cost import GraphCost

STREAM_BUFFERS = 2
"""Inputs, and as many outputs, that a stream holds in the GPU's memory: one that is inferred, one that is filled. So it
is with CUDA shared memory; with any other transport frames wait in the host's memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What one GPU can serve, ``KEPT_FREE`` of its memory and of its time kept free."""

    budget: MemoryBudget
    instances: int
    """That its memory holds."""
    batch_ms: float | None
    """Estimated for a full batch; None where nothing is known to estimate it by."""
    streams_by_memory: int
    streams_by_time: int | None

    @property
    def images_per_s(self) -> float | None:
        """Estimated of full batches one after the other: instances share the GPU's time."""
        return None if self.batch_ms is None else self.budget.batch / self.batch_ms * 1e3

    @property
    def streams(self) -> int | None:
        """The lesser of the two; None where the time is not known, as it is time that mostly binds."""
        return None if self.streams_by_time is None else min(self.streams_by_memory, self.streams_by_time)

    @property
    def bound_by(self) -> str:
        """``memory`` or ``time``; empty where the time is not known."""
        if self.streams_by_time is None:
            return ""
        return "time" if self.streams_by_time < self.streams_by_memory else "memory"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        derived = {"images_per_s": self.images_per_s, "streams": self.streams, "bound_by": self.bound_by}
        return asdict(self) | {"budget": self.budget.to_json()} | derived


def capacity(cost: GraphCost, model: OnnxModel, gpu: GpuTarget, *, batch: int, instances: int, fps: float) -> Capacity:
    """What ``gpu`` can serve with that many instances, of cameras with ``fps`` frames a second each."""
    budget = memory_budget(cost, model, gpu, batch=batch, instances=instances)
    one = memory_budget(cost, model, gpu, batch=1, instances=1)
    room = budget.free_bytes - budget.capacity_bytes * KEPT_FREE
    batch_ms = service_time_ms(cost, gpu, batch) if budget.fits else None
    by_time = None if batch_ms is None else int((1 - KEPT_FREE) * batch / batch_ms * 1e3 / fps)
    return Capacity(
        budget=budget,
        instances=planned_instances(cost, model, gpu, batch),
        batch_ms=batch_ms,
        streams_by_memory=max(0, int(room // (STREAM_BUFFERS * (one.input_bytes + one.output_bytes)))),
        streams_by_time=by_time,
    )
