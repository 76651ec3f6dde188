"""What one GPU does at most within the goal, and which of four bounds it is that binds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.capacity.formulas import images_per_s_by_bus
from benchmarks.capacity.server_model import ServerModel
from benchmarks.load.points import ClosedLoop, LoadReport
from builder.memory import GB, KEPT_FREE, MemoryBudget, memory_budget

if TYPE_CHECKING:
    from builder.artifacts import OnnxModel
    from builder.gpus import GpuTarget
    from builder.graph_cost import GraphCost

COMPUTE, MEMORY, PCIE, LATENCY = "compute", "memory", "PCIe", "latency"
# A batch must gain at least this to be worth the longer wait.
_WORTH = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """The served graph, where it is at hand."""

    model: OnnxModel
    cost: GraphCost

    @property
    def frame_bytes(self) -> int:
        """Of a frame as it is sent, and of its answer."""
        specs = (*self.model.inputs, *self.model.outputs)
        # Triton's types carry their bits in their names.
        return sum(math.prod(spec.shape) * int("".join(filter(str.isdigit, spec.dtype))) // 8 for spec in specs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Images a second of one GPU by each bound; None where it is not known, or does not apply."""

    compute: float
    """At the batch that gives most, whatever its latency."""
    memory: float | None
    """Of the streams whose frames and answers its memory holds."""
    pcie: float | None
    latency: float
    """At the batch that is served; 0 where not even a single image on an idle GPU is within the goal."""
    batch: int
    """The largest whose latency at full load is within the goal, unless a smaller one gives as much; else 1."""
    full_load_ms: float
    """The latency of that batch at full load."""
    alone_ms: float
    """Of a single image on an idle GPU; where that was measured, the percentile of the goal."""

    @property
    def images_per_s(self) -> float:
        """The least of the bounds."""
        return min(value for value in self.by_name().values() if value is not None)

    @property
    def binds(self) -> str:
        """The bound that is the least; of equal ones the first."""
        known = {name: value for name, value in self.by_name().items() if value is not None}
        return min(known, key=lambda name: known[name])

    def by_name(self) -> dict[str, float | None]:
        """Each bound."""
        return {COMPUTE: self.compute, MEMORY: self.memory, PCIE: self.pcie, LATENCY: self.latency}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"images_per_s": self.images_per_s, "binds": self.binds}


def bounds(
    server: ServerModel,
    *,
    sla_s: float,
    delay_s: float,
    batches: Iterable[int],
    memory_images_per_s: Callable[[int], float | None],
    gpu: GpuTarget | None,
    bytes_per_frame: float,
) -> Bounds:
    """The bounds of a GPU that may run these batch sizes, one or more; its memory's is asked for by the batch."""
    allowed = sorted(set(batches))
    within = [batch for batch in allowed if server.latency_s(batch, delay_s) <= sla_s]
    batch = _most(server, within) if within else allowed[0]
    can_meet = server.alone_s() <= sla_s
    return Bounds(
        compute=server.images_per_s(_most(server, allowed)),
        memory=memory_images_per_s(batch),
        pcie=None if gpu is None else images_per_s_by_bus(gpu, bytes_per_frame),
        latency=server.images_per_s(batch) if can_meet else 0.0,
        batch=batch,
        full_load_ms=server.latency_s(batch, delay_s) * 1e3,
        alone_ms=server.alone_s() * 1e3,
    )


def with_measured(found: Bounds, report: LoadReport, sla_ms: float, percentile: int) -> Bounds:
    """The bounds, never above what the report reached: at its best point, and at its best one within the goal.

    Where one request at a time is already beyond the goal, nothing is within it.
    """
    reached = max(point.throughput_images_per_s for point in report.points if not point.failed)
    within = report.best_within(sla_ms, percentile)
    single = next((point for point in report.points if point.load == ClosedLoop(concurrency=1)), None)
    alone_ms = found.alone_ms if single is None else single.latency_ms.percentile(percentile)
    latency = min(found.latency, reached) if within is None else within.throughput_images_per_s
    return dataclasses.replace(
        found,
        compute=min(found.compute, reached),
        latency=latency if alone_ms <= sla_ms else 0.0,
        alone_ms=alone_ms,
    )


def allowed_batches(largest: int, graph: Graph | None, gpu: GpuTarget | None, instances: int) -> list[int]:
    """Powers of two up to ``largest``, and it; of a graph those that leave room on the GPU, at the least 1."""
    candidates = {1, largest, *(1 << power for power in range(largest.bit_length()))}
    return sorted(batch for batch in candidates if batch == 1 or _roomy(graph, gpu, batch, instances))


def budget_of(graph: Graph, gpu: GpuTarget, batch: int, instances: int) -> MemoryBudget:
    """What serving takes of the GPU's memory."""
    return memory_budget(graph.cost, graph.model, gpu, batch=batch, instances=instances)


def streams_by_used_memory(used_bytes: float, gpu: GpuTarget, bytes_per_stream: float) -> int:
    """Streams whose buffers fit beside what was measured to be taken, ``KEPT_FREE`` of the memory kept free."""
    room = gpu.memory_gb * GB * (1 - KEPT_FREE) - used_bytes
    return max(0, int(room // bytes_per_stream))


def _roomy(graph: Graph | None, gpu: GpuTarget | None, batch: int, instances: int) -> bool:
    return graph is None or gpu is None or budget_of(graph, gpu, batch, instances).roomy


def _most(server: ServerModel, batches: list[int]) -> int:
    """The batch of the highest throughput; the smallest of those that give as much."""
    best = max(map(server.images_per_s, batches))
    return next(batch for batch in batches if server.images_per_s(batch) >= best * (1 - _WORTH))
