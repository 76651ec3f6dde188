"""What a load report says of a GPU's service times, and how well a model made of them repeats the report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.capacity.server_model import ServerModel, Source
from benchmarks.load.points import ClosedLoop, LoadPoint, LoadReport
from benchmarks.queueing.batcher import Batcher, simulate_closed
from benchmarks.queueing.service import ServiceTimes
from builder.errors import SpecError

BARELY = 0.1
"""Of an instance, that a report may find busy by its own scatter."""
MOST_INSTANCES = 4
"""That are thought of where nothing but latencies is known."""
BATCHED = 1.2
"""Images an execution, from which on the report tells what batching gains."""
LEAST_MS = 1e-3
SLOWDOWNS = tuple(tenths / 10 for tenths in range(11))
CHECKED_REQUESTS = 2000


def measured(report: LoadReport, origin: str) -> ServerModel:
    """By a load report: the model that repeats its best throughput, and comes closest to its closed loops.

    Where Triton tells no service times, as of a backend that answers after it has returned, they follow from the
    latency of one request at a time; ``origin`` names the report in errors.

    Raises:
        SpecError: the report holds no point without failures, or neither service times nor one request at a time.
    """
    usable = [point for point in report.points if not point.failed and point.throughput_images_per_s > 0]
    if not usable:
        raise SpecError(f"{origin}: expected a point without failed requests, got none; run benchmarks load again")
    best = max(usable, key=lambda point: point.throughput_images_per_s)
    single = next((point for point in usable if point.load == ClosedLoop(concurrency=1)), None)
    if report.service_ms:
        models = list(_by_service_times(report.service_ms, usable, best, single))
    elif single is not None and single.latency_ms.mean > 0:
        models = [_by_batches(usable, single)] if best.mean_batch > BATCHED else list(_by_latency(best, single))
    else:
        raise SpecError(
            f"{origin}: expected service times, or a point of one request at a time, got neither; run benchmarks load "
            "with --concurrency 1 among others"
        )
    closest = min(models, key=lambda model: _distance(model, report))
    return replace(closest, scatter=_scatter(single)) if single is not None else closest


def _scatter(single: LoadPoint) -> tuple[tuple[float, float], ...]:
    """Of one request at a time, which never waits: what its latency scatters by, the execution does."""
    told = single.latency_ms
    if not 0 < told.p50 <= told.p90 <= told.p95 <= told.p99:
        return ()
    # As far below the median as 90 % are above it, and beyond p99 no further than from p95 to it.
    lowest, highest = max(told.p50 / 2, 2 * told.p50 - told.p90), 2 * told.p99 - told.p95
    shares = (0.0, 0.5, 0.9, 0.95, 0.99, 1.0)
    latency_ms = (lowest, told.p50, told.p90, told.p95, told.p99, highest)
    mean = sum(
        (right - left) * (below + above) / 2
        for left, right, below, above in zip(shares, shares[1:], latency_ms, latency_ms[1:], strict=False)
    )
    return tuple((share, each / mean) for share, each in zip(shares, latency_ms, strict=True))


def _by_service_times(
    service_ms: Mapping[int, float], usable: Sequence[LoadPoint], best: LoadPoint, single: LoadPoint | None
) -> Iterator[ServerModel]:
    """As many instances as were busy at the best point: throughput x seconds of an execution / its images (Little)."""
    copying_ms = best.server_ms.compute_input + best.server_ms.compute_output
    held_s = {batch: max(each + copying_ms, LEAST_MS) / 1e3 for batch, each in service_ms.items()}
    batch = max(1, round(best.mean_batch))
    busy = best.throughput_images_per_s * ServiceTimes.from_measured(held_s)(batch) / batch
    instances = max(1, math.ceil(busy - BARELY))
    alone_s = {}
    if batch > 1 and single is not None and single.server_ms.compute_infer > 0:
        alone_s = {1: (single.server_ms.total - single.server_ms.queue) / 1e3}
    for slowdown in SLOWDOWNS if instances > 1 else (0.0,):
        # The report's times are those of instances that were slowed down already.
        factor = instances / busy / (1 + slowdown * (instances - 1))
        yield ServerModel(
            source=Source.MEASURED,
            service_s={size: each * factor for size, each in held_s.items()} | alone_s,
            instances=instances,
            slowdown=slowdown,
            largest_batch=max(held_s),
            overhead_s=min(map(_way_ms, usable)) / 1e3,
        )


def _by_batches(usable: Sequence[LoadPoint], single: LoadPoint) -> ServerModel:
    """Instances that are never idle while more requests are under way than there are of them.

    Seconds of a batch = instances x mean batch / throughput, of each such point. Instances are as many as do single
    images side by side: throughput without batches x seconds of one at a time (Little's law).
    """
    alone_s = single.latency_ms.mean / 1e3
    unbatched = (point.throughput_images_per_s for point in usable if point.mean_batch <= BATCHED)
    instances = max(1, math.ceil(max(unbatched) * alone_s - BARELY))
    full = [point for point in usable if isinstance(point.load, ClosedLoop) and point.load.concurrency > instances]
    times_s = {
        round(point.mean_batch): instances * point.mean_batch / point.throughput_images_per_s
        for point in sorted(full, key=lambda point: point.throughput_images_per_s)
        if point.mean_batch > BATCHED
    }
    return ServerModel(
        source=Source.MEASURED,
        service_s={1: alone_s} | times_s,
        instances=instances,
        slowdown=0.0,
        largest_batch=max(times_s, default=1),
    )


def _by_latency(best: LoadPoint, single: LoadPoint) -> Iterator[ServerModel]:
    """One instance that gives the best throughput, or several that slow each other down until they give it.

    Every image costs the same: nothing was batched.
    """
    alone_s, each_s = single.latency_ms.mean / 1e3, 1 / best.throughput_images_per_s
    for instances in range(1, MOST_INSTANCES + 1):
        stretch = instances * each_s / alone_s
        if instances > 1 and stretch < 1:
            continue
        yield ServerModel(
            source=Source.MEASURED,
            service_s={1: each_s if instances == 1 else alone_s},
            instances=instances,
            slowdown=0.0 if instances == 1 else (stretch - 1) / (instances - 1),
            largest_batch=1,
            overhead_s=max(0.0, alone_s - each_s) if instances == 1 else 0.0,
        )


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
    """The model run against its report's points; None where the report has no closed loop.

    In the simulation callers that are answered together come back together and share the next batch again. In fact they
    come one after another, so that a middling concurrency gets smaller batches than the model says.
    """
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
    served = simulate_closed(batcher, model.drawn(np.random.default_rng(0)), concurrency, requests, model.overhead_s)
    ended_s = float((served.arrivals_s + served.latency_s).max()) + model.overhead_s
    return requests / ended_s, (served.percentile_s(99) + model.overhead_s) * 1e3


def _way_ms(point: LoadPoint) -> float:
    return max(0.0, point.latency_ms.mean - point.server_ms.total)
