"""``python -m benchmarks queue-policy``: what a queue policy does to the latency of requests that come at random.

With a policy, Triton's dynamic batcher wakes for a new request only where an instance waits for work, and otherwise
sleeps until the next request, for up to 500 ms (core's dynamic_batch_scheduler.cc and rate_limiter.cc). The model is a
stand-in for a GPU: the Python backend sleeps 20 ms and 2 ms for each request, so that nothing else takes part.
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import percentile_ms
from benchmarks.machine import OtherLoad, environment, other_load_text
from benchmarks.served import server_version, triton_server
from benchmarks.tables import key_values, table
from benchmarks.threads import running
from builder.errors import ServerError

POLICIES = {
    "none": "",
    "bound": "default_queue_policy { max_queue_size: 128 }",
    "bound and timeout": "default_queue_policy { max_queue_size: 128 timeout_action: REJECT "
    "default_timeout_microseconds: 1000000 allow_timeout_override: true }",
}
INSTANCES = (1, 2)
LATE_MS = 100.0
"""Several times what a request takes."""
PATIENCE_S = 5.0
MODEL = """
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.02 + 0.002 * len(requests))
        y = np.zeros((1, 1), np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", y)]) for _ in requests]
"""
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 8
input [{{ name: "x" data_type: TYPE_FP32 dims: [1] }}]
output [{{ name: "y" data_type: TYPE_FP32 dims: [1] }}]
instance_group [{{ count: {instances} kind: KIND_CPU }}]
dynamic_batching {{ max_queue_delay_microseconds: 500 {policy} }}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One model under one load."""

    policy: str
    instances: int
    latency_p50_ms: float
    latency_p99_ms: float
    latency_max_ms: float
    late: float
    """Share of requests that took over LATE_MS."""
    requests: int
    errors: int


@dataclass(frozen=True, kw_only=True, slots=True)
class QueuePolicyReport:
    """All figures of one run."""

    rate_per_s: float
    duration_s: float
    rows: tuple[Row, ...]
    other_cpu_share: float
    environment: dict[str, str]
    all_met: bool = True
    """There is no target."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"benchmark": "queue-policy", **dataclasses.asdict(self)}

    def to_text(self) -> str:
        """What is printed."""
        cells = [
            (
                f"{row.policy}, {row.instances} instance(s)",
                f"{row.latency_p50_ms:.1f}",
                f"{row.latency_p99_ms:.1f}",
                f"{row.latency_max_ms:.1f}",
                f"{row.late:.2%}",
                str(row.requests),
                str(row.errors),
            )
            for row in self.rows
        ]
        header = ("queue policy", "p50 ms", "p99 ms", "max ms", f"over {LATE_MS:.0f} ms", "requests", "errors")
        return "\n".join(
            (
                f"{self.rate_per_s:g} requests/s at random (Poisson, the same for every row) for "
                f"{self.duration_s:g} s; a model that takes 22 ms; all rows at the same time",
                other_load_text(self.other_cpu_share),
                "",
                table(header, cells),
                "",
                key_values(self.environment),
            )
        )


def measure_queue_policy(
    rate_per_s: float, duration_s: float, argv: Sequence[str], progress: Callable[[str], None]
) -> QueuePolicyReport:
    """Send every model the same requests at the same times.

    Raises:
        BuilderError: tritonserver cannot be started, or stops answering.
    """
    variants = [(policy, instances) for policy in POLICIES for instances in INSTANCES]
    with tempfile.TemporaryDirectory(prefix="yolo-triton-") as folder:
        names = [_write(Path(folder), policy, instances) for policy, instances in variants]
        with triton_server(Path(folder), *names) as server:
            progress(f"tritonserver is ready after {server.ready_after_s:.1f} s")
            others = OtherLoad(server.pid)
            stopping = threading.Event()
            loads = [_Load(server.grpc_url, name, rate_per_s, duration_s, stopping) for name in names]
            # Interrupted, this process would stay until all requests were sent.
            with running(loads, stopping.set):
                for load in loads:
                    load.join()
            return QueuePolicyReport(
                rate_per_s=rate_per_s,
                duration_s=duration_s,
                rows=tuple(load.row(*variant) for load, variant in zip(loads, variants, strict=True)),
                other_cpu_share=others.share(),
                environment=environment(argv, tritonserver=server_version(server)),
            )


class _Load(threading.Thread):
    """Sends requests at random times, whether or not the earlier ones are answered, until it is ``stopping``."""

    def __init__(self, url: str, model: str, rate_per_s: float, duration_s: float, stopping: threading.Event) -> None:
        super().__init__()
        self._stopping = stopping
        self._url, self._model, self._rate_per_s, self._duration_s = url, model, rate_per_s, duration_s
        self._latencies_s: list[float] = []
        self._errors = 0
        self._sent = 0

    def run(self) -> None:
        import numpy as np
        import tritonclient.grpc as grpcclient

        tensor = grpcclient.InferInput("x", [1, 1], "FP32")
        tensor.set_data_from_numpy(np.zeros((1, 1), np.float32))
        numbers = random.Random(0)  # noqa: S311 - a load, not a secret
        with grpcclient.InferenceServerClient(self._url.removeprefix("grpc://")) as client:
            due = start = time.perf_counter()
            while (due := due + numbers.expovariate(self._rate_per_s)) < start + self._duration_s:
                if self._stopping.wait(max(0.0, due - time.perf_counter())):
                    return
                client.async_infer(self._model, [tensor], self._answered(time.perf_counter()))
                self._sent += 1
            deadline = time.perf_counter() + PATIENCE_S
            while len(self._latencies_s) + self._errors < self._sent and time.perf_counter() < deadline:
                if self._stopping.wait(0.01):
                    return

    def row(self, policy: str, instances: int) -> Row:
        """The figures."""
        if len(self._latencies_s) + self._errors < self._sent or not self._latencies_s:
            raise ServerError(f"{self._model}: {len(self._latencies_s)} of {self._sent} requests were answered.")
        latencies_s = self._latencies_s
        return Row(
            policy=policy,
            instances=instances,
            latency_p50_ms=percentile_ms(latencies_s, 50),
            latency_p99_ms=percentile_ms(latencies_s, 99),
            latency_max_ms=max(latencies_s) * 1e3,
            late=sum(each * 1e3 > LATE_MS for each in latencies_s) / len(latencies_s),
            requests=self._sent,
            errors=self._errors,
        )

    def _answered(self, start: float) -> Callable[[Any, Any], None]:
        def answered(result: Any, error: Any) -> None:
            del result
            if error is None:
                self._latencies_s.append(time.perf_counter() - start)
            else:
                self._errors += 1

        return answered


def _write(repository: Path, policy: str, instances: int) -> str:
    name = f"{policy.replace(' ', '_')}_{instances}"
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    config = CONFIG.format(name=name, instances=instances, policy=POLICIES[policy])
    (repository / name / "configs").mkdir()
    for path in ("config.pbtxt", "configs/cpu.pbtxt"):
        (repository / name / path).write_text(config)
    return name
