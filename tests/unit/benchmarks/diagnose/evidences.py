"""Evidence of a healthy server, of which each test changes what it is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.diagnose.evidence import Evidence, GpuEvidence, MachineEvidence, Missing, ModelEvidence
from benchmarks.load.counters import Counters

MB = 1_000_000


def counters(**changes: Any) -> Counters:
    """100 requests in 50 executions of two images within 10 s, 40 ms each: 4 ms of queue, 1 ms in and out."""
    made = Counters(
        requests=100,
        parts_ns={
            "queue": 400 * MB,
            "compute_input": 100 * MB,
            "compute_infer": 3400 * MB,
            "compute_output": 100 * MB,
        },
        executions={2: 50},
        infer_ns={2: 9_900 * MB},
    )
    return replace(made, **changes)


def model(**changes: Any) -> ModelEvidence:
    made = ModelEvidence(
        name="shapes",
        counters=counters(),
        server_ns=4_000 * MB,
        instances=1,
        max_batch_size=8,
        max_queue_size=128,
        may_answer_later=False,
        pending=(2.0, 4.0),
    )
    return replace(made, **changes)


def machine(**changes: Any) -> MachineEvidence:
    made = MachineEvidence(
        processes=2,
        memory_bytes=(300 * MB, 301 * MB),
        memory_limit_bytes=25_000 * MB,
        model_bytes=3 * MB,
        cores=2,
        server_cpu_s=18.0,
        idle_share=0.05,
        steal_share=0.0,
        throttled_share=0.0,
        waiting_share=0.1,
        shared_memory_free=0.9,
        shared_memory_bytes=64 * MB,
    )
    return replace(made, **changes)


def gpu(**changes: Any) -> GpuEvidence:
    made = GpuEvidence(
        name="Tesla T4",
        used_bytes=1_500 * MB,
        server_bytes=1_200 * MB,
        allocated_bytes=1_000 * MB,
        bus_bytes_per_s=(1e9, 3e9),
        link_bytes_per_s=15.76e9,
        link="generation 3 x16",
        is_full_link=True,
    )
    return replace(made, **changes)


def evidence(**changes: Any) -> Evidence:
    made = Evidence(
        url="grpc://127.0.0.1:8001",
        duration_s=10.0,
        models=(model(),),
        machine=machine(),
        gpus=(gpu(),),
        regions={"system frames": 5 * MB},
    )
    return replace(made, **changes)


NO_GPU = Missing("no GPU: no NVIDIA driver answers")
