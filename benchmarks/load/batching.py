"""Whether the server batches: one line, with the reason where it does not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.load.points import ClosedLoop, LoadPoint, LoadReport

BATCHES = 1.05
"""Requests to an execution from which the server is said to batch."""
_BUSY = 1.5
"""Requests under way, in the mean, below which there is no company to wait for."""

_HARDLY = 0.05
"""Of the latency, spent in the queue: so little is no wait."""


def batching_line(report: LoadReport, config: Mapping[str, Any], *, images_per_request: int = 1) -> str:
    """The mean executed batch under the highest load, and why it is one request where it is.

    ``config`` is the model's configuration as Triton gives it: the JSON of its HTTP or gRPC model-configuration API.
    """
    config = config.get("config", config)
    # Triton counts no executions of an ensemble: its steps have them.
    points = [point for point in report.points if point.batches]
    if _is_ensemble(config):
        return f"batching: {_ensemble(report.model, config)}"
    if not points:
        return "batching: not known, for Triton counted no execution of this model"
    point = max(points, key=under_way)
    requests = point.mean_batch / images_per_request
    most = _number(config.get("max_batch_size"))
    told = f"batching: {point.mean_batch:.2f} images an execution at {point.load}"
    if requests >= BATCHES:
        return f"{told}, of {most} at most"
    return f"{told}: {_reason(point, config, most, images_per_request)}"


def under_way(point: LoadPoint) -> float:
    """Images that are under way at a time, in the mean: throughput * latency (Little's law)."""
    return point.throughput_images_per_s * point.latency_ms.mean / 1e3


def instances(config: Mapping[str, Any]) -> int:
    """Executions that the server can run at a time, on all the GPUs that the configuration names."""
    groups: Sequence[Mapping[str, Any]] = config.get("instance_group", ())
    return sum(_number(group.get("count"), 1) * max(1, len(group.get("gpus", ()))) for group in groups) or 1


def _reason(point: LoadPoint, config: Mapping[str, Any], most: int, images_per_request: int) -> str:
    """The surest reason first."""
    return (
        _forbidden(config, most, images_per_request)
        or _without_company(point, instances(config), images_per_request)
        or _not_queued(point, config)
        or _not_waited_for(config)
        or "none of the known reasons; see the queue's time, and priorities or timeouts in its policy"
    )


def _forbidden(config: Mapping[str, Any], most: int, images_per_request: int) -> str | None:
    if most <= images_per_request:
        plan = " or the plan's profile maximum" if _is_tensorrt(config) else ""
        return f"max_batch_size{plan} is {max(most, 1)}; build with --max-batch 8"
    profile = _profile_maximum(config)
    if profile is not None and profile <= images_per_request:
        return f"the profile's maximum is {profile} though max_batch_size is {most}; build with --max-batch {most}"
    if "sequence_batching" in config:
        return "sequence_batching gives each sequence a slot; only requests of several sequences can meet"
    if "dynamic_batching" not in config:
        return "the configuration has no dynamic_batching; add `dynamic_batching { }`"
    return None


def _without_company(point: LoadPoint, count: int, images_per_request: int) -> str | None:
    requests = under_way(point) / images_per_request
    if isinstance(point.load, ClosedLoop) and point.load.concurrency == 1:
        return "the client sends one at a time; try --concurrency 8"
    if requests < _BUSY:
        return f"{requests:.1f} requests are under way in the mean, so that none finds another waiting; load it more"
    if requests < count + 0.5:
        fewer = f", or build with --instances {count // 2}" if count > 1 else ""
        return f"{count} instances take {requests:.1f} requests as they come; load it more{fewer}"
    return None


def _not_queued(point: LoadPoint, config: Mapping[str, Any]) -> str | None:
    queue, latency = point.server_ms.queue, point.latency_ms.mean
    if queue > _HARDLY * latency:
        return None
    told = f"requests wait {queue:.1f} of {latency:.0f} ms in the queue"
    if config.get("backend") == "python":
        return f"{told}: the model's process takes them on as they come, since on a CPU a batch is no faster"
    return f"{told}: what holds them is before it, the client, the network or an ensemble's step"


def _not_waited_for(config: Mapping[str, Any]) -> str | None:
    if not _number(config["dynamic_batching"].get("max_queue_delay_microseconds")):
        return "the delay is 0, so that an instance takes what waits at once; build with --max-queue-delay-us 500"
    if any(-1 in map(_number, each.get("dims", ())) for each in config.get("input", ())):
        return "the input's dims vary, and only requests of one shape share an execution; send one size"
    return None


def _is_ensemble(config: Mapping[str, Any]) -> bool:
    return config.get("platform") == "ensemble" or "ensemble_scheduling" in config


def _ensemble(model: str, config: Mapping[str, Any]) -> str:
    steps = config.get("ensemble_scheduling", {}).get("step", ())
    names = ", ".join(str(step.get("model_name")) for step in steps)
    return f"{model} is an ensemble, which passes requests on one by one; its steps batch, each for itself: {names}"


def _is_tensorrt(config: Mapping[str, Any]) -> bool:
    return "tensorrt" in (config.get("backend"), str(config.get("platform", "")).partition("_")[0])


def _profile_maximum(config: Mapping[str, Any]) -> int | None:
    """The largest batch of onnxruntime's TensorRT engine, of ``trt_profile_max_shapes: "images:8x640x640x3"``."""
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    for each in accelerators.get("gpu_execution_accelerator", ()):
        found = re.search(r":(\d+)", str(each.get("parameters", {}).get("trt_profile_max_shapes", "")))
        if found:
            return int(found[1])
    return None


def _number(value: Any, default: int = 0) -> int:
    """Protobuf's JSON writes 64-bit numbers as text, and leaves out zeros."""
    return int(value) if value is not None else default
