"""How a version is served on one kind of machine: what was asked for, and the settings of each GPU and of the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.artifacts import CpuPrecision
from builder.errors import SpecError

if TYPE_CHECKING:
    from builder.gpus import GpuTarget

DEFAULT_MAX_BATCH = 8
_MAY_BE_ZERO = ("max_queue_delay_us", "max_queue_size", "queue_timeout_ms", "priority_levels")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingSettings:
    """How Triton queues, batches and runs a detector on one kind of machine."""

    max_batch: int = DEFAULT_MAX_BATCH
    instances: int = 2
    """On each GPU. With one that is busy and a queue policy, Triton's batcher may let a request lie until the next one
    comes, for up to 500 ms (core's dynamic_batch_scheduler.cc); and a second one computes while the first transfers."""
    max_queue_delay_us: int = 500
    """How long a request may wait for others to share its batch."""
    max_queue_size: int = 128
    """Requests waiting beyond this are refused at once; 0 is no bound."""
    queue_timeout_ms: int = 1000
    """Requests that waited longer are refused; a request may ask for less, not for more; 0 is no limit."""
    priority_levels: int = 0
    """Requests may name a level from 1, the most urgent, to this; 0 is one queue for all."""

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            SpecError: a number is out of bounds, the queue is smaller than one batch, or no request would be answered.
        """
        for each in dataclasses.fields(self):
            value, lowest = getattr(self, each.name), 0 if each.name in _MAY_BE_ZERO else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise SpecError(f"{each.name}: expected a whole number of at least {lowest}, got {value!r}")
        if 0 < self.max_queue_size < self.max_batch:
            raise SpecError(
                f"max_queue_size: expected at least max_batch ({self.max_batch}), got {self.max_queue_size}; "
                f"a shorter queue never fills a batch"
            )
        if self.queue_timeout_ms and self.max_queue_delay_us >= self.queue_timeout_ms * 1000:
            raise SpecError(
                f"max_queue_delay_us: expected less than queue_timeout_ms ({self.queue_timeout_ms}), got "
                f"{self.max_queue_delay_us} us; a request that waits that long for company is refused"
            )

    @property
    def default_priority(self) -> int:
        """The level of a request that names none: the middle, and of two the lower, so that one can be more urgent."""
        return self.priority_levels // 2 + 1

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches whose CUDA graphs are captured: powers of two, and the largest."""
        powers = (1 << power for power in range(self.max_batch.bit_length()))
        return tuple(sorted({*powers, self.max_batch}))


def settings_for_all(machines: Sequence[ServingSettings]) -> ServingSettings:
    """What every one of them can take: the least of each setting; no bound and no limit are the most."""

    def least(name: str) -> int:
        values = [getattr(each, name) for each in machines]
        bounds = [value for value in values if value] if name in ("max_queue_size", "queue_timeout_ms") else values
        return min(bounds, default=0)

    return ServingSettings(**{each.name: least(each.name) for each in dataclasses.fields(ServingSettings)})


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingRequest:
    """What was asked for; None is left to be chosen."""

    max_batch: int | None = None
    instances: int | None = None
    max_queue_delay_us: int | None = None
    max_queue_size: int | None = None
    queue_timeout_ms: int | None = None
    priority_levels: int = 0
    sla_ms: float | None = None
    """The latency that requests shall meet in the server, without the network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CpuServing:
    """How OpenVINO serves the version on a CPU."""

    settings: ServingSettings = field(default_factory=lambda: ServingSettings(instances=1))
    inference_threads: int | None = None
    """OpenVINO's threads; None leaves the number to OpenVINO."""
    precision: CpuPrecision = CpuPrecision.FP32

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            SpecError: less than one thread.
        """
        if self.inference_threads is not None and self.inference_threads < 1:
            raise SpecError(f"inference_threads: expected at least 1, got {self.inference_threads!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuServing:
    """How one GPU of the fleet serves the version."""

    gpu: GpuTarget
    settings: ServingSettings
    workspace_bytes: int
    """What TensorRT's kernels may use beside the activations: a ceiling, not a reservation."""
    plan: str | None = None
    """The plan's file in the version's folder; None: onnxruntime compiles model.onnx by TensorRT as the model loads."""
