"""Load reports as a server of known service times would give them, by the simulated batcher."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.load.points import ClosedLoop, Latencies, LoadPoint, LoadReport, ServerTimes, Usage
from benchmarks.queueing.batcher import Batcher, simulate_closed
from benchmarks.queueing.service import ServiceTimes

WAY_S = 0.001
COPYING_MS = 0.2


def load_report(
    service_s: Mapping[int, float],
    *,
    model: str = "shapes",
    gpu: str | None = "t4",
    instances: int = 2,
    slowdown: float = 1.0,
    concurrencies: Sequence[int] = (1, 4, 16, 64),
    gpu_memory_bytes: int | None = None,
) -> LoadReport:
    """Of a server with so many instances that share the GPU, whose answers are 1 ms on their way."""
    batcher = Batcher(max_batch=max(service_s), instances=instances, slowdown=slowdown)
    service = ServiceTimes.from_measured(service_s)
    points = []
    for concurrency in concurrencies:
        served = simulate_closed(batcher, service, concurrency, 4000, WAY_S)
        ended_s = float((served.arrivals_s + served.latency_s).max())
        p50, p90, p95, p99 = (1e3 * (served.percentile_s(percent) + WAY_S) for percent in (50, 90, 95, 99))
        mean_ms = float(served.latency_s.mean() * 1e3)
        busy_ms = served.busy_s / len(served.executions) * 1e3
        points.append(
            LoadPoint(
                load=ClosedLoop(concurrency=concurrency),
                throughput_images_per_s=4000 / ended_s,
                latency_ms=Latencies(mean=mean_ms + WAY_S * 1e3, p50=p50, p90=p90, p95=p95, p99=p99),
                server_ms=ServerTimes(
                    queue=max(0.0, mean_ms - busy_ms),
                    compute_input=COPYING_MS / 2,
                    compute_infer=busy_ms - COPYING_MS,
                    compute_output=COPYING_MS / 2,
                ),
                batches=dict(Counter(map(int, served.executions))),
                usage=Usage(gpu_memory_bytes=gpu_memory_bytes),
            )
        )
    # Larger batches run under load alone, where the instances beside them make them slower.
    stretch = 1 + slowdown * (instances - 1)
    service_ms = {batch: each * (stretch if batch > 1 else 1) * 1e3 - COPYING_MS for batch, each in service_s.items()}
    return LoadReport(model=model, gpu=gpu, points=tuple(points), service_ms=service_ms, environment={})


def written(report: LoadReport, path: Path) -> Path:
    """The report as a file."""
    path.write_text(json.dumps(report.to_json()))
    return path
