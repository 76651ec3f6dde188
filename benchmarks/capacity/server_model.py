"""One GPU as the fleet's simulation sees it: how long it takes for a batch, and where that is known from.

Three sources, and every figure says which it is of: a load report of that GPU, a throughput by hand, or an estimate.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.load.points import ClosedLoop, LoadPoint, LoadReport
from benchmarks.queueing.batcher import Batcher, simulate_closed
from benchmarks.queueing.service import ServiceTimes
from builder.errors import SpecError
from builder.service_time import service_time_ms
from builder.sizing import LARGEST_CHOSEN_BATCH

if TYPE_CHECKING:
    from builder.gpus import GpuTarget
    from builder.graph_cost import GraphCost

BARELY = 0.1
"""Of an instance, that the report may find busy by its own scatter."""
CHECKED_REQUESTS = 4000


class Source(enum.StrEnum):
    """Where the service times are from."""

    MEASURED = "measured"
    BY_HAND = "by hand"
    ESTIMATE = "ESTIMATE"


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerModel:
    """What serves the frames of one GPU."""

    source: Source
    service_s: Mapping[int, float]
    """Seconds that an instance is held by a batch of that size, the others idle."""
    instances: int
    slowdown: float
    """How much longer that is for each further busy instance: 1 where they share what one alone has."""
    largest_batch: int
    """The largest that the figures reach to."""
    overhead_s: float = 0.0
    """Of each request, beside queue and execution: the way there and back."""

    @property
    def service(self) -> ServiceTimes:
        """Seconds by batch, lines between the known ones."""
        return ServiceTimes.from_measured(self.service_s)

    def full_load_s(self, batch: int) -> float:
        """Seconds that a batch takes while every instance is busy."""
        return self.service(batch) * (1 + self.slowdown * (self.instances - 1))

    def images_per_s(self, batch: int) -> float:
        """Of full batches on all instances, one after the other."""
        return self.instances * batch / self.full_load_s(batch)

    def latency_s(self, batch: int, delay_s: float) -> float:
        """At full load: the delay, a wait for the batch that runs, and a batch of one's own, as ``builder.sizing``."""
        return self.overhead_s + delay_s + 2 * self.full_load_s(batch)

    def alone_s(self) -> float:
        """The latency of an image that finds the GPU idle: no configuration answers sooner."""
        return self.overhead_s + self.service(1)


def estimated(cost: GraphCost, gpu: GpuTarget, instances: int) -> ServerModel:
    """By ``builder.service_time``: instances share the GPU's time.

    Raises:
        SpecError: nothing is known to estimate it by.
    """
    batches = [1 << power for power in range(LARGEST_CHOSEN_BATCH.bit_length())]
    times = {batch: service_time_ms(cost, gpu, batch) for batch in batches}
    known = {batch: each / 1e3 for batch, each in times.items() if each is not None}
    if not known:
        in_fp32 = gpu.fp16_tflops_accumulating_fp32 is not None
        why = "the network is in FP32" if in_fp32 else "its peak FP16 is not in the table"
        raise SpecError(
            f"{gpu.name}: expected figures to estimate by, but {why}; measure it: --report, or --throughput "
            f"{gpu.name}=IMAGES_PER_S"
        )
    return ServerModel(
        source=Source.ESTIMATE,
        service_s=known,
        instances=instances,
        slowdown=1.0,
        largest_batch=LARGEST_CHOSEN_BATCH,
    )


def by_hand(images_per_s: float, shape: ServerModel | None) -> ServerModel:
    """One that does so many images a second at its best.

    Its service times have the shape of the estimate where there is one. Else every image is taken to cost the same,
    1 / throughput, in whatever batch: nothing says what batching gains.
    """
    if shape is None:
        return ServerModel(
            source=Source.BY_HAND, service_s={1: 1 / images_per_s}, instances=1, slowdown=0.0, largest_batch=1
        )
    factor = max(map(shape.images_per_s, shape.service_s)) / images_per_s
    scaled = {batch: each * factor for batch, each in shape.service_s.items()}
    return dataclasses.replace(shape, source=Source.BY_HAND, service_s=scaled)


def measured(report: LoadReport, origin: str) -> ServerModel:
    """By a load report: as many instances as were busy at its best point, which the model reaches exactly.

    Busy instances = throughput x seconds of an execution / its images (Little's law). The service times of the report
    are those under load, so that nothing slows the model's instances further down; at a light load it is rather too
    slow than too fast.

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
    factor = instances / busy
    return ServerModel(
        source=Source.MEASURED,
        service_s={size: each * factor for size, each in held_s.items()},
        instances=instances,
        slowdown=0.0,
        largest_batch=max(held_s),
        overhead_s=min(map(_way_ms, usable)) / 1e3,
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
    """The model run against its report's points; None where the report has no closed loop."""
    throughput, p99 = [], []
    for point in report.points:
        if isinstance(point.load, ClosedLoop) and not point.failed and point.throughput_images_per_s > 0:
            images_per_s, p99_ms = _closed_loop(model, point.load.concurrency)
            throughput.append(images_per_s / point.throughput_images_per_s - 1)
            p99.append(p99_ms / point.latency_ms.p99 - 1)
    return ReportError(throughput=tuple(throughput), p99=tuple(p99)) if throughput else None


def _closed_loop(model: ServerModel, concurrency: int) -> tuple[float, float]:
    """Images a second and the p99 in milliseconds of so many callers."""
    batcher = Batcher(max_batch=model.largest_batch, instances=model.instances, slowdown=model.slowdown)
    requests = max(CHECKED_REQUESTS, 20 * concurrency)
    served = simulate_closed(batcher, model.service, concurrency, requests, model.overhead_s)
    ended_s = float((served.arrivals_s + served.latency_s).max()) + model.overhead_s
    return requests / ended_s, (served.percentile_s(99) + model.overhead_s) * 1e3


def _way_ms(point: LoadPoint) -> float:
    return max(0.0, point.latency_ms.mean - point.server_ms.total)
