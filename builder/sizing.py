"""Batch, instances and queue of one GPU: what was asked for, and the rest from the model's cost, the GPU and the goal.

A request waits at most for the instances' running batches and is then computed beside them. With ``n`` instances that
share the GPU, a batch of ``b`` takes ``n * s(b)``, ``s`` being its service time alone; the latency at full load is

    latency(b) = queue delay + 2 * n * s(b)

and the largest batch whose latency is within the goal is taken, as it gives the most throughput. A request that has
waited longer than the goal leaves for computing is refused, and the queue holds what can be served in that time.
``s`` is an estimate (``service_time``): measure what was chosen on the GPU before anything depends on it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.memory import check_fits, memory_budget, workspace_bytes
from builder.service_time import service_time_ms
from builder.serving import DEFAULT_MAX_BATCH, ServingRequest, ServingSettings

if TYPE_CHECKING:
    from builder.artifacts import OnnxModel
    from builder.gpus import GpuTarget
    from builder.graph_cost import GraphCost
    from builder.memory import MemoryBudget


LARGEST_CHOSEN_BATCH = 64


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
        timed = service_time_ms(cost, gpu, 1) is not None
        fitting = [each for each in _candidates(request, timed=timed) if roomy(each, instances)] or [1]
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
    best = _queue_bounds(
        dataclasses.replace(request, queue_timeout_ms=None, max_queue_size=None), batch, instances, alone
    )
    told = [*_sla_warnings(gpu, request, settings, latency), *_queue_warnings(gpu, request, settings, best)]
    warnings = (*told, *_memory_warnings(gpu, cost, settings, budget))
    return Sizing(settings=settings, budget=budget, service_time_ms=alone, latency_ms=latency, warnings=warnings)


def _candidates(request: ServingRequest, *, timed: bool) -> list[int]:
    """The batches to choose from: powers of two, and none above the default where nothing says what they take."""
    most = LARGEST_CHOSEN_BATCH if timed and request.sla_ms is not None else DEFAULT_MAX_BATCH
    most = min(most, request.max_queue_size or most)
    return [1 << power for power in range(most.bit_length()) if 1 << power <= most]


def _queue_bounds(request: ServingRequest, batch: int, instances: int, alone_ms: float | None) -> tuple[int, int]:
    """How long and how many requests wait: milliseconds and a count; 0 is no limit."""
    defaults = ServingSettings()
    timeout_ms, queue_size = defaults.queue_timeout_ms, max(defaults.max_queue_size, batch)
    if request.sla_ms is not None:
        # Where nothing says what computing takes, half of the goal is left for it.
        computing_ms = request.sla_ms / 2 if alone_ms is None else alone_ms * instances
        timeout_ms = max(1, math.floor(request.sla_ms - computing_ms))
        if alone_ms is not None:
            queue_size = max(batch, math.ceil(timeout_ms * batch / alone_ms))
    if request.queue_timeout_ms is not None:
        timeout_ms = request.queue_timeout_ms
    if request.max_queue_size is not None:
        queue_size = request.max_queue_size
    return timeout_ms, queue_size


def _sla_warnings(
    gpu: GpuTarget, request: ServingRequest, settings: ServingSettings, latency_ms: float | None
) -> Iterator[str]:
    if request.sla_ms is None:
        return
    if latency_ms is None:
        known = gpu.fp16_tflops_accumulating_fp32 is not None
        why = "the network is in FP32" if known else "its peak FP16 is not known"
        yield f"{gpu.name}: {why}, so its times are not estimated and nothing says whether --sla-ms can be met"
    elif latency_ms > request.sla_ms:
        yield (
            f"{gpu.name}: batches of {settings.max_batch} on {settings.instances} instances are estimated to take "
            f"{latency_ms:.1f} ms at full load, --sla-ms is {request.sla_ms:g}"
        )


def _queue_warnings(
    gpu: GpuTarget, request: ServingRequest, settings: ServingSettings, best: tuple[int, int]
) -> Iterator[str]:
    """What of the queue, as it was asked for, lets requests wait beyond the goal; ``best`` would not."""
    timeout_ms, size = best
    if request.sla_ms is not None and not 0 < settings.queue_timeout_ms <= timeout_ms:
        waits = f"{settings.queue_timeout_ms} ms" if settings.queue_timeout_ms else "without limit"
        # A bounded queue that is served in time needs no limit of its own.
        if not 0 < settings.max_queue_size <= size:
            yield f"{gpu.name}: a request may wait {waits}, --sla-ms {request.sla_ms:g} leaves {timeout_ms} ms for it"
    if settings.instances == 1 and (settings.max_queue_size or settings.queue_timeout_ms):
        yield (
            f"{gpu.name}: with one instance and a queue policy, Triton may let a request that comes while the GPU is "
            "busy lie for up to 500 ms: use --instances 2, or no policy: --max-queue-size 0 --queue-timeout-ms 0"
        )


def _memory_warnings(gpu: GpuTarget, cost: GraphCost, settings: ServingSettings, budget: MemoryBudget) -> Iterator[str]:
    if budget.roomy:
        return
    yield (
        f"{gpu.name}: {budget.total_bytes / 1e9:.2f} of {budget.capacity_bytes / 1e9:g} GB are taken, less than 30 % "
        "stay free for what else runs there"
    )
    wanted = workspace_bytes(cost.layers, settings.max_batch)
    if budget.workspace_bytes < wanted:
        yield (
            f"{gpu.name}: what is left gives each instance {budget.workspace_bytes / 1e6:.0f} MB of workspace in "
            f"place of {wanted / 1e6:.0f} MB, so that TensorRT will find fewer of its kernels; take fewer instances or "
            "smaller batches"
        )
