"""One kind of GPU against what is asked of it: its service times, its bounds, how it batches, and how many it takes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from benchmarks.capacity.bounds import (
    LATENCY,
    MEMORY,
    Bounds,
    allowed_batches,
    bounds,
    budget_of,
    streams_by_used_memory,
    with_measured,
)
from benchmarks.capacity.formulas import gpus_needed, transfer_s
from benchmarks.capacity.from_report import measured
from benchmarks.capacity.known_cases import known_cases
from benchmarks.capacity.request import CapacityRequest, Kind
from benchmarks.capacity.server_model import ServerModel, Source, by_hand, estimated
from benchmarks.queueing.batcher import Batcher
from builder.capacity import STREAM_BUFFERS, capacity
from builder.errors import SpecError
from builder.memory import GB
from builder.serving import ServingSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Sized:
    """What the arithmetic says of one kind."""

    server: ServerModel
    bounds: Bounds
    batcher: Batcher
    """That each GPU serves with."""
    gpus: int | None
    """ceil(images/s of all / images/s of one x redundancy); None where one does nothing within the goal."""
    gpus_range: tuple[int, int] | None
    """The same with an estimate that is off by as much as the known cases are; None for what is no estimate."""
    why_none: str
    """Why no number of them can meet the goal, whatever a simulation says; empty where one may."""
    estimate_error: float | None
    """Estimated / measured images a second - 1, where there are both."""


def size_kind(request: CapacityRequest, kind: Kind) -> Sized:
    """The arithmetic of one kind.

    Raises:
        SpecError: it has no figures that it could be sized by.
    """
    server = _server(request, kind)
    found = _bounds(request, kind, server)
    needed = None
    if found.images_per_s > 0:
        needed = gpus_needed(request.images_per_s, found.images_per_s, request.redundancy)
    return Sized(
        server=server,
        bounds=found,
        batcher=_batcher(request, server, found.batch),
        gpus=needed,
        gpus_range=None if needed is None else _range(request, kind, server, found),
        why_none=_why_none(request, kind, server, found),
        estimate_error=_estimate_error(request, kind, found),
    )


def _server(request: CapacityRequest, kind: Kind) -> ServerModel:
    if kind.report is not None:
        return measured(kind.report, f"--report {kind.origin}")
    try:
        shape = _estimated(request, kind)
    except SpecError:
        if kind.images_per_s is None:
            raise
        shape = None
    server = shape if kind.images_per_s is None else by_hand(kind.images_per_s, shape)
    assert server is not None, "check_sources lets nothing else pass"
    # A report's times have the transfers in them.
    on_the_bus_s = 0.0 if kind.gpu is None else transfer_s(kind.gpu, request.bytes_per_frame, 1)
    return dataclasses.replace(server, overhead_s=on_the_bus_s)


def _estimated(request: CapacityRequest, kind: Kind) -> ServerModel | None:
    """By the graph, on as many instances as a build gives; None where there is no graph, or no GPU."""
    if request.graph is None or kind.gpu is None:
        return None
    instances = ServingSettings().instances
    roomy = budget_of(request.graph, kind.gpu, 1, instances).roomy
    return estimated(request.graph.cost, kind.gpu, instances if roomy else 1)


def _estimate_error(request: CapacityRequest, kind: Kind, found: Bounds) -> float | None:
    if kind.report is None:
        return None
    try:
        server = _estimated(request, kind)
    except SpecError:
        return None
    if server is None:
        return None
    # The report tells nothing of batches that its server did not run.
    largest = max((*kind.report.service_ms, 1))
    batches = [batch for batch in server.service_s if batch <= largest]
    return max(map(server.images_per_s, batches)) / found.compute - 1


def _bounds(request: CapacityRequest, kind: Kind, server: ServerModel) -> Bounds:
    largest = min(server.largest_batch, request.max_batch or server.largest_batch)
    found = bounds(
        server,
        sla_s=request.sla_ms / 1e3,
        delay_s=request.delay_ms / 1e3,
        batches=allowed_batches(largest, request.graph, kind.gpu, server.instances),
        memory_images_per_s=lambda batch: _by_memory(request, kind, server, batch),
        gpu=kind.gpu,
        bytes_per_frame=request.bytes_per_frame,
    )
    if kind.report is None:
        return found
    return with_measured(found, kind.report, request.sla_ms, request.percentile)


def _by_memory(request: CapacityRequest, kind: Kind, server: ServerModel, batch: int) -> float | None:
    """Images a second of the streams whose frames the GPU's memory holds; 0 where the model itself does not fit."""
    if kind.gpu is None:
        return None
    if request.graph is not None:
        graph = request.graph
        known = capacity(graph.cost, graph.model, kind.gpu, batch=batch, instances=server.instances, fps=request.fps)
        return known.streams_by_memory * request.fps if known.budget.fits else 0.0
    used = [point.usage.gpu_memory_bytes for point in (kind.report.points if kind.report else ())]
    known_bytes = [each for each in used if each is not None]
    if not known_bytes:
        return None
    streams = streams_by_used_memory(max(known_bytes), kind.gpu, STREAM_BUFFERS * request.bytes_per_frame)
    return streams * request.fps


def _batcher(request: CapacityRequest, server: ServerModel, batch: int) -> Batcher:
    """The queue of ``builder.sizing``: what leaves no time to be computed within the goal is refused."""
    timeout_s = max(1e-3, request.sla_ms / 1e3 - server.overhead_s - server.full_load_s(batch))
    return Batcher(
        max_batch=batch,
        delay_s=request.delay_ms / 1e3,
        instances=server.instances,
        queue_limit=max(batch, math.ceil(timeout_s * server.images_per_s(batch))),
        timeout_s=timeout_s,
        slowdown=server.slowdown,
    )


def _range(request: CapacityRequest, kind: Kind, server: ServerModel, found: Bounds) -> tuple[int, int] | None:
    """With an estimate that is too long by as much as it was of any known case, and too short by as much."""
    if server.source is not Source.ESTIMATE:
        return None
    cases = known_cases()
    errors = [case.error for case in cases if case.gpu == kind.name] or [case.error for case in cases]
    lowest, highest = (
        gpus_needed(request.images_per_s, found.images_per_s * (1 + error), request.redundancy)
        for error in (max(errors), min(errors))
    )
    return lowest, highest


def _why_none(request: CapacityRequest, kind: Kind, server: ServerModel, found: Bounds) -> str:
    if found.images_per_s <= 0 and found.binds == LATENCY:
        return f"a single image on an idle server takes {found.alone_ms:.1f} ms, the goal is {request.sla_ms:g} ms"
    if found.images_per_s <= 0:
        assert found.binds == MEMORY, "no other bound is 0"
        return "its memory does not hold the model and the frames of one stream with room to spare"
    if request.graph is None or kind.gpu is None:
        return ""
    budget = budget_of(request.graph, kind.gpu, found.batch, server.instances)
    if 2 * budget.total_bytes <= budget.capacity_bytes:
        return ""
    return (
        f"two versions at once, as in a rollout, take {2 * budget.total_bytes / GB:.1f} of "
        f"{budget.capacity_bytes / GB:g} GB: take a smaller --max-batch"
    )
