"""From the windows of a load to what is reported of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.counters import Counters
from benchmarks.load.points import PERCENTILES, ClientTimes, Latencies, Load, LoadPoint, Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadWindow:
    """What one repetition of a load came to."""

    seconds: float
    batch: int
    """Images in a request."""
    latencies_s: NDArray[np.float64]
    """Of each request that was answered in the window, at least one."""
    counters: Counters
    client_ms: ClientTimes | None
    usage: Usage
    delayed_share: float

    @property
    def images_per_s(self) -> float:
        """Images answered / seconds."""
        return len(self.latencies_s) * self.batch / self.seconds


def point_of(load: Load, windows: Sequence[LoadWindow]) -> LoadPoint:
    """All windows together, one or more; each also by itself: how they differ is the noise of a report."""
    counters = counters_of(windows)
    client = [window.client_ms for window in windows if window.client_ms]
    seconds = sum(window.seconds for window in windows)
    return LoadPoint(
        load=load,
        throughput_images_per_s=sum(window.images_per_s * window.seconds for window in windows) / seconds,
        latency_ms=latencies_ms(np.concatenate([window.latencies_s for window in windows])),
        server_ms=counters.server_ms,
        client_ms=ClientTimes(send=fmean(each.send for each in client), receive=fmean(each.receive for each in client))
        if client
        else None,
        batches=counters.batches,
        failed=counters.failed,
        delayed_share=fmean(window.delayed_share for window in windows),
        windows_images_per_s=tuple(window.images_per_s for window in windows),
        windows_latency_ms=tuple(latencies_ms(window.latencies_s) for window in windows),
        usage=_usage([window.usage for window in windows]),
    )


def counters_of(windows: Sequence[LoadWindow]) -> Counters:
    """What Triton counted in all of them."""
    return reduce(add, (window.counters for window in windows))


def latencies_ms(latencies_s: NDArray[np.float64]) -> Latencies:
    """Mean and percentiles, between neighbours by interpolation."""
    percentiles = np.percentile(latencies_s, PERCENTILES) * 1e3
    return Latencies(
        mean=float(latencies_s.mean()) * 1e3,
        **{f"p{name}": float(value) for name, value in zip(PERCENTILES, percentiles, strict=True)},
    )


def _usage(windows: Sequence[Usage]) -> Usage:
    """Shares as means, memory at its most."""
    cpu = [each.cpu_share for each in windows if each.cpu_share is not None]
    gpu = [each.gpu_utilization for each in windows if each.gpu_utilization is not None]
    return Usage(
        cpu_share=fmean(cpu) if cpu else None,
        server_memory_bytes=max((each.server_memory_bytes or 0 for each in windows), default=0) or None,
        gpu_utilization=fmean(gpu) if gpu else None,
        gpu_memory_bytes=max((each.gpu_memory_bytes or 0 for each in windows), default=0) or None,
    )
