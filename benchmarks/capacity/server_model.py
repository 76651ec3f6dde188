"""One GPU as the fleet's simulation sees it: how long it takes for a batch, and where that is known from.

Three sources, and every figure says which it is of: a load report of that GPU (``from_report``), a throughput by hand,
or an estimate.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.queueing.batcher import Service
from benchmarks.queueing.service import ServiceTimes
from builder.errors import SpecError
from builder.service_time import service_time_ms
from builder.sizing import LARGEST_CHOSEN_BATCH

if TYPE_CHECKING:
    from builder.gpus import GpuTarget
    from builder.graph_cost import GraphCost


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
    scatter: tuple[tuple[float, float], ...] = ()
    """Of the time of an execution, as a factor of its mean: shares from 0 to 1 of the executions, and the factor that
    they do not exceed. Empty: always the same time."""

    @property
    def service(self) -> ServiceTimes:
        """Seconds by batch, lines between the known ones."""
        return ServiceTimes.from_measured(self.service_s)

    def drawn(self, rng: np.random.Generator) -> Service:
        """Seconds by batch, with the scatter of single executions."""
        service = self.service
        if not self.scatter:
            return service
        shares, factors = zip(*self.scatter, strict=True)
        return lambda batch: service(batch) * float(np.interp(rng.random(), shares, factors))

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
