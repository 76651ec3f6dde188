"""What a load run measured, as values and as the JSON that other commands read.

Times are in milliseconds and throughputs in images per second, as their names say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from builder.errors import SpecError

SCHEMA = "load/1"
PERCENTILES = (50, 90, 95, 99)

MOST_DELAYED = 0.1
"""The share of requests sent late from which on perf_analyzer itself warns that it did not keep up."""

Distribution = Literal["constant", "poisson"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedLoop:
    """So many requests under way at any time: the next is sent when one is answered."""

    concurrency: int

    def __str__(self) -> str:
        return f"{self.concurrency} at a time"


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenLoop:
    """So many requests a second, whether the earlier ones are answered or not."""

    rate_per_s: float
    distribution: Distribution
    """Of the time from one request to the next: always the same, or exponential."""

    def __str__(self) -> str:
        return f"{self.rate_per_s:g}/s {self.distribution}"


Load = ClosedLoop | OpenLoop


@dataclass(frozen=True, kw_only=True, slots=True)
class Latencies:
    """Of the requests, from before one is sent until its answer is there; a percentile p50 is exceeded by half."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    def percentile(self, percentile: int) -> float:
        """The latency that this share of the requests does not exceed; raises SpecError for one that is not kept."""
        if percentile not in PERCENTILES:
            raise SpecError(f"expected one of the percentiles {', '.join(map(str, PERCENTILES))}, got {percentile}")
        value: float = getattr(self, f"p{percentile}")
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerTimes:
    """Where Triton had the requests: the mean of each part per request."""

    queue: float
    compute_input: float
    compute_infer: float
    compute_output: float

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return self.queue + self.compute_input + self.compute_infer + self.compute_output


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientTimes:
    """What the client needs to write a request out and to read its answer, per request."""

    send: float
    receive: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What the server used of its machine; None where that is not known, as of a server elsewhere."""

    cpu_share: float | None = None
    """CPU time of the server's processes / (seconds * cores of the machine)."""
    server_memory_bytes: int | None = None
    """The most that its processes held at a time, pages that several of them share counted once."""
    gpu_utilization: float | None = None
    """The mean share of the time in which the GPU had work, whoever gave it."""
    gpu_memory_bytes: int | None = None
    """The most that was taken of the GPU's memory, by whomever."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadPoint:
    """One load, measured."""

    load: Load
    throughput_images_per_s: float
    """Images answered / seconds of the windows."""
    latency_ms: Latencies
    """Of every request of all windows."""
    server_ms: ServerTimes
    batches: Mapping[int, int]
    """Executions by the number of images in them, as Triton counted them."""
    client_ms: ClientTimes | None = None
    """None where perf_analyzer does not tell."""
    failed: int = 0
    """Requests that were answered with an error; they are in none of the other figures."""
    delayed_share: float = 0.0
    """Of an open loop's requests, those that were sent later than planned: that wait is in no latency."""
    windows_images_per_s: tuple[float, ...] = ()
    """The throughput of each repetition."""
    windows_latency_ms: tuple[Latencies, ...] = ()
    """The latencies of each repetition."""
    usage: Usage = Usage()

    @property
    def kept_up(self) -> bool:
        """Whether the load was what it was to be."""
        return self.delayed_share <= MOST_DELAYED

    @property
    def mean_batch(self) -> float:
        """Images / executions; 0 where Triton counted none."""
        executions = sum(self.batches.values())
        return sum(size * count for size, count in self.batches.items()) / executions if executions else 0.0

    @property
    def other_ms(self) -> float:
        """What is left of the mean latency: the way there and back, and the server before and after its queue."""
        client = self.client_ms.send + self.client_ms.receive if self.client_ms else 0.0
        return max(0.0, self.latency_ms.mean - self.server_ms.total - client)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "load": _load_to_json(self.load),
            "throughput_images_per_s": self.throughput_images_per_s,
            "latency_ms": asdict(self.latency_ms),
            "server_ms": asdict(self.server_ms),
            "client_ms": asdict(self.client_ms) if self.client_ms else None,
            "batches": {str(size): count for size, count in sorted(self.batches.items())},
            "mean_batch": self.mean_batch,
            "failed": self.failed,
            "delayed_share": self.delayed_share,
            "windows_images_per_s": list(self.windows_images_per_s),
            "windows_latency_ms": [asdict(each) for each in self.windows_latency_ms],
            "usage": asdict(self.usage),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read it back; raises KeyError, TypeError or ValueError for what is no such point."""
        return cls(
            load=_load_from_json(value["load"]),
            throughput_images_per_s=_number(value["throughput_images_per_s"]),
            latency_ms=_numbers(Latencies, value["latency_ms"]),
            server_ms=_numbers(ServerTimes, value["server_ms"]),
            client_ms=_numbers(ClientTimes, value["client_ms"]) if value.get("client_ms") else None,
            batches={int(size): int(count) for size, count in value["batches"].items()},
            failed=int(value.get("failed", 0)),
            delayed_share=_number(value.get("delayed_share", 0.0)),
            windows_images_per_s=tuple(map(_number, value.get("windows_images_per_s", ()))),
            windows_latency_ms=tuple(_numbers(Latencies, each) for each in value.get("windows_latency_ms", ())),
            usage=Usage(**value.get("usage", {})),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadFailure:
    """One load that could not be measured, as one at which the server refuses requests."""

    load: Load
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"load": _load_to_json(self.load), "reason": self.reason}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """A model's behaviour under every load that was asked for."""

    model: str
    gpu: str | None
    """Its name in ``builder/gpus.yaml``; None: a CPU."""
    points: tuple[LoadPoint, ...]
    service_ms: Mapping[int, float]
    """The mean compute_infer of an execution by its number of images, over all points; empty where Triton does not know
    it, as of a Python model that answers after its call."""
    environment: Mapping[str, str]
    failures: tuple[LoadFailure, ...] = ()
    """Loads that are none of the points."""

    def best_within(self, sla_ms: float, percentile: int) -> LoadPoint | None:
        """The point of the highest throughput whose percentile is within the limit, that failed nothing and kept up."""
        within = [
            point
            for point in self.points
            if not point.failed and point.kept_up and point.latency_ms.percentile(percentile) <= sla_ms
        ]
        return max(within, key=lambda point: point.throughput_images_per_s, default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain values, which ``read_load_report`` reads."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "gpu": self.gpu,
            "points": [point.to_json() for point in self.points],
            "service_ms": {str(size): value for size, value in sorted(self.service_ms.items())},
            "environment": dict(self.environment),
            "failures": [failure.to_json() for failure in self.failures],
        }


def read_load_report(path: Path) -> LoadReport:
    """What ``python -m benchmarks load --json`` wrote; raises SpecError where the file is not that."""
    try:
        value = json.loads(path.read_text())
        if value.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {value.get('schema')!r}")
        return LoadReport(
            model=str(value["model"]),
            gpu=None if value.get("gpu") is None else str(value["gpu"]),
            points=tuple(LoadPoint.from_json(each) for each in value["points"]),
            service_ms={int(size): _number(each) for size, each in value["service_ms"].items()},
            environment={str(key): str(each) for key, each in value["environment"].items()},
            failures=tuple(
                LoadFailure(load=_load_from_json(each["load"]), reason=str(each["reason"]))
                for each in value.get("failures", ())
            ),
        )
    except OSError as error:
        raise SpecError(
            f"{path}: expected a load report, but it cannot be read ({error.strerror}); write one with: "
            f"python -m benchmarks load --model NAME --json {path}"
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise SpecError(
            f"{path}: expected a load report ({SCHEMA}), got something else: {reason}; write one with: "
            "python -m benchmarks load --model NAME --json FILE"
        ) from error


_Times = TypeVar("_Times", Latencies, ServerTimes, ClientTimes)


def _load_to_json(load: Load) -> dict[str, Any]:
    return {"kind": "closed" if isinstance(load, ClosedLoop) else "open", **asdict(load)}


def _load_from_json(value: Mapping[str, Any]) -> Load:
    if value["kind"] == "closed":
        return ClosedLoop(concurrency=int(value["concurrency"]))
    if value["kind"] != "open" or value["distribution"] not in ("constant", "poisson"):
        raise ValueError(f"a load is {dict(value)}")
    return OpenLoop(rate_per_s=_number(value["rate_per_s"]), distribution=value["distribution"])


def _numbers(kind: type[_Times], value: Mapping[str, Any]) -> _Times:
    return kind(**{each.name: _number(value[each.name]) for each in fields(kind)})


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"expected a finite number from 0, got {value}")
    return number
