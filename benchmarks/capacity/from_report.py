"""What a load report says of a GPU's service times, and how well a model made of them repeats the report."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from benchmarks.capacity.server_model import ServerModel, Source
from benchmarks.load.points import ClosedLoop, LoadPoint, LoadReport
from benchmarks.queueing.batcher import Batcher, simulate_closed
from benchmarks.queueing.service import ServiceTimes
from builder.errors import SpecError

BARELY = 0.1
"""Of an instance, that a report may find busy by its own scatter."""
SLOWDOWNS = tuple(tenths / 10 for tenths in range(11))
CHECKED_REQUESTS = 2000


def measured(report: LoadReport, origin: str) -> ServerModel:
    """By a load report: as many instances as were busy at its best point, whose throughput the model reaches.

    Busy instances = throughput x seconds of an execution / its images (Little's law). How much they slow each other
    down is what brings the model closest to the report's closed loops. ``origin`` names the report in errors.

    Raises:
        SpecError: the report holds no point without failures, or no service times.
    """
    usable = [point for point in report.points if not point.failed and point.throughput_images_per_s > 0]
    if not usable or not report.service_ms:
        lacks = "point without failed requests" if not usable else "service times by batch (service_ms)"
        raise SpecError(f"{origin}: expected a load report with a {lacks}, got none; run benchmarks load again")
    best = max(usable, key=lambda point: point.throughput_images_per_s)
    copying_ms = best.server_ms.compute_input + best.server_ms.compute_output
    held_s = {batch: (each + copying_ms) / 1e3 for batch, each in report.service_ms.items()}
    if min(held_s.values()) <= 0:
        raise SpecError(f"{origin}: expected service times above 0, got {dict(report.service_ms)}")
    batch = max(1, round(best.mean_batch))
    busy = best.throughput_images_per_s * ServiceTimes.from_measured(held_s)(batch) / batch
    instances = max(1, math.ceil(busy - BARELY))
    models = []
    for slowdown in SLOWDOWNS if instances > 1 else (0.0,):
        # The report's times are those of instances that were slowed down already.
        factor = instances / busy / (1 + slowdown * (instances - 1))
        service_s = {size: each * factor for size, each in held_s.items()}
        models.append(
            ServerModel(
                source=Source.MEASURED,
                service_s=service_s if batch == 1 else service_s | _alone_s(usable),
                instances=instances,
                slowdown=slowdown,
                largest_batch=max(held_s),
                overhead_s=min(map(_way_ms, usable)) / 1e3,
            )
        )
    return min(models, key=lambda model: _distance(model, report))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportError:
    """How far the model is off the closed-loop points of the report that it was made of: model / measured - 1."""

    throughput: tuple[float, ...]
    p99: tuple[float, ...]

    def __str__(self) -> str:
        def told(errors: tuple[float, ...]) -> str:
            return f"{statistics.median(errors):+.0%} in the median ({min(errors):+.0%} to {max(errors):+.0%})"

        return f"throughput {told(self.throughput)}, p99 {told(self.p99)}"


def error_of(model: ServerModel, report: LoadReport) -> ReportError | None:
    """The model run against its report's points; None where the report has no closed loop."""
    throughput, p99 = [], []
    for point in report.points:
        told = min(point.throughput_images_per_s, point.latency_ms.p99) > 0 and not point.failed
        if isinstance(point.load, ClosedLoop) and told:
            images_per_s, p99_ms = _closed_loop(model, point.load.concurrency)
            throughput.append(images_per_s / point.throughput_images_per_s - 1)
            p99.append(p99_ms / point.latency_ms.p99 - 1)
    return ReportError(throughput=tuple(throughput), p99=tuple(p99)) if throughput else None


def _distance(model: ServerModel, report: LoadReport) -> float:
    error = error_of(model, report)
    return 0.0 if error is None else statistics.fmean(map(abs, (*error.throughput, *error.p99)))


def _closed_loop(model: ServerModel, concurrency: int) -> tuple[float, float]:
    """Images a second and the p99 in milliseconds of so many callers."""
    batcher = Batcher(max_batch=model.largest_batch, instances=model.instances, slowdown=model.slowdown)
    requests = max(CHECKED_REQUESTS, 20 * concurrency)
    served = simulate_closed(batcher, model.service, concurrency, requests, model.overhead_s)
    ended_s = float((served.arrivals_s + served.latency_s).max()) + model.overhead_s
    return requests / ended_s, (served.percentile_s(99) + model.overhead_s) * 1e3


def _alone_s(points: list[LoadPoint]) -> dict[int, float]:
    """A single image on an idle server, which one request at a time tells directly; empty where that is not known."""
    single = [point.server_ms for point in points if point.load == ClosedLoop(concurrency=1)]
    return {1: (single[0].total - single[0].queue) / 1e3} if single and single[0].compute_infer > 0 else {}


def _way_ms(point: LoadPoint) -> float:
    return max(0.0, point.latency_ms.mean - point.server_ms.total)
