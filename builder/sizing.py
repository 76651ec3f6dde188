"""Batch, instances and queue of one GPU: what was asked for, and the rest from the model's cost, the GPU and the goal.

A request waits at most for the instances' running batches and is then computed beside them. With ``n`` instances that
share the GPU, a batch of ``b`` takes ``n * s(b)``, ``s`` being its service time alone; the latency at full load is

    latency(b) = queue delay + 2 * n * s(b)

and the largest batch whose latency is within the goal is taken, as it gives the most throughput. A request that has
waited longer than the goal leaves for computing is refused, and the queue holds what can be served in that time.
``s`` is an estimate (``service_time``): measure what was chosen on the GPU before anything depends on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.memory import check_fits, memory_budget
from builder.service_time import service_time_ms
from builder.serving import DEFAULT_MAX_BATCH, LARGEST_CHOSEN_BATCH, ServingRequest, ServingSettings

if TYPE_CHECKING:
    from builder.artifacts import OnnxModel
    from builder.gpus import GpuTarget
    from builder.graph_cost import GraphCost
    from builder.memory import MemoryBudget


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizing:
    """How one GPU serves, and by which figures."""

    settings: ServingSettings
    budget: MemoryBudget
    service_time_ms: float | None
    """Estimated, of the largest batch; None where the GPU's peak is not known."""
    latency_ms: float | None
    """Estimated, at full load."""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The estimates as plain values."""
        return {
            "service_time_ms": None if self.service_time_ms is None else round(self.service_time_ms, 3),
            "latency_ms": None if self.latency_ms is None else round(self.latency_ms, 3),
            "measured": False,
        }


def size(cost: GraphCost, model: OnnxModel, gpu: GpuTarget, request: ServingRequest) -> Sizing:
    """The settings for one GPU.

    Raises:
        MemoryBudgetError: what was asked for does not fit the GPU, or not even one image does.
        SpecError: the queue that was asked for is smaller than a batch.
    """
    defaults = ServingSettings()
    delay_us = defaults.max_queue_delay_us if request.max_queue_delay_us is None else request.max_queue_delay_us

    def roomy(batch: int, instances: int) -> bool:
        return memory_budget(cost, model, gpu, batch=batch, instances=instances).roomy

    instances = request.instances or (defaults.instances if roomy(request.max_batch or 1, defaults.instances) else 1)

    def latency_ms(batch: int) -> float | None:
        alone = service_time_ms(cost, gpu, batch)
        return None if alone is None else delay_us / 1000 + 2 * instances * alone

    batch = request.max_batch
    if batch is None:
        fitting = [each for each in _candidates(request) if roomy(each, instances)] or [1]
        within = [each for each in fitting if request.sla_ms is None or (latency_ms(each) or 0.0) <= request.sla_ms]
        batch = max(within or [1])
    budget = check_fits(cost, model, gpu, batch=batch, instances=instances)
    alone, latency = service_time_ms(cost, gpu, batch), latency_ms(batch)
    timeout_ms, queue_size = _queue_bounds(request, batch, instances, alone)
    settings = ServingSettings(
        max_batch=batch,
        instances=instances,
        max_queue_delay_us=delay_us,
        max_queue_size=queue_size,
        queue_timeout_ms=timeout_ms,
        priority_levels=request.priority_levels,
    )
    warnings = _warnings(gpu, request, settings, budget, latency)
    return Sizing(settings=settings, budget=budget, service_time_ms=alone, latency_ms=latency, warnings=warnings)


def _candidates(request: ServingRequest) -> list[int]:
    """The batches to choose from: powers of two."""
    most = DEFAULT_MAX_BATCH if request.sla_ms is None else LARGEST_CHOSEN_BATCH
    most = min(most, request.largest_batch, request.max_queue_size or most)
    return [1 << power for power in range(most.bit_length()) if 1 << power <= most]


def _queue_bounds(request: ServingRequest, batch: int, instances: int, alone_ms: float | None) -> tuple[int, int]:
    """How long and how many requests wait: milliseconds and a count; 0 is no limit."""
    defaults = ServingSettings()
    timeout_ms, queue_size = defaults.queue_timeout_ms, max(defaults.max_queue_size, batch)
    if request.sla_ms is not None:
        timeout_ms = max(1, math.floor(request.sla_ms - (alone_ms or 0.0) * instances))
        if alone_ms is not None:
            queue_size = max(batch, math.ceil(timeout_ms * batch / alone_ms))
    if request.queue_timeout_ms is not None:
        timeout_ms = request.queue_timeout_ms
    if request.max_queue_size is not None:
        queue_size = request.max_queue_size
    return timeout_ms, queue_size


def _warnings(
    gpu: GpuTarget,
    request: ServingRequest,
    settings: ServingSettings,
    budget: MemoryBudget,
    latency_ms: float | None,
) -> tuple[str, ...]:
    lines = []
    if request.sla_ms is not None and latency_ms is None:
        lines.append(f"{gpu.name}: its peak FP16 is not known, so nothing says whether --sla-ms can be met")
    if request.sla_ms is not None and latency_ms is not None and latency_ms > request.sla_ms:
        lines.append(
            f"{gpu.name}: batches of {settings.max_batch} on {settings.instances} instances are estimated to take "
            f"{latency_ms:.1f} ms at full load, --sla-ms is {request.sla_ms:g}"
        )
    if not budget.roomy:
        lines.append(
            f"{gpu.name}: {budget.total_bytes / 1e9:.2f} of {budget.capacity_bytes / 1e9:g} GB are taken, less than "
            f"30 % stay free for what else runs there"
        )
    if settings.instances == 1 and (settings.max_queue_size or settings.queue_timeout_ms):
        lines.append(
            f"{gpu.name}: with one instance and a queue policy, Triton may let a request that comes while the GPU is "
            "busy lie for up to 500 ms: use --instances 2, or no policy: --max-queue-size 0 --queue-timeout-ms 0"
        )
    return tuple(lines)
