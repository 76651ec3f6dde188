"""The three numbers: memory used against allocated, gaps between executions, use of the bus."""

from __future__ import annotations

from statistics import mean

from benchmarks.diagnose.evidence import Evidence, GpuEvidence, Missing, ModelEvidence
from benchmarks.diagnose.reading import Reading, judged, unmeasurable

LARGEST_UNALLOCATED = 0.3
"""The share of the server's device memory that no model's runtime has allocated."""
LONGEST_GAP_MS = 5.0
HIGHEST_BUS_USE = 0.8
WAITING_SHARE = 0.05
"""The share of a request's time in the queue from which on requests count as waiting."""

ANSWERS_LATER = (
    "a model on the Python backend may take a call's images and answer later, as the builder's model.py on OpenVINO "
    "does, and then Triton's times end where the computing begins"
)
MEMORY = "device memory, used / allocated"
BUS = "bus use"
_MEMORY_THRESHOLD = f"at most {LARGEST_UNALLOCATED:.0%} of it not allocated by a model's runtime"
_BUS_THRESHOLD = f"at most {HIGHEST_BUS_USE:.0%} of the link"
_GAP_THRESHOLD = f"at most {LONGEST_GAP_MS:g} ms while requests wait"


def gpu_readings(evidence: Evidence) -> list[Reading]:
    """Memory and bus of each GPU."""
    if isinstance(evidence.gpus, Missing):
        return [
            unmeasurable(MEMORY, _MEMORY_THRESHOLD, evidence.gpus),
            unmeasurable(BUS, _BUS_THRESHOLD, evidence.gpus),
        ]
    return [reading for gpu in evidence.gpus for reading in (_memory(gpu), _bus(gpu))]


def _memory(gpu: GpuEvidence) -> Reading:
    name = f"{gpu.name}: {MEMORY}"
    used = gpu.server_bytes if isinstance(gpu.used_bytes, Missing) else gpu.used_bytes
    held = gpu.server_bytes if not isinstance(gpu.server_bytes, Missing) else used
    for each in (used, held, gpu.allocated_bytes):
        if isinstance(each, Missing):
            return unmeasurable(name, _MEMORY_THRESHOLD, each)
    assert isinstance(used, int)
    assert isinstance(held, int)
    assert isinstance(gpu.allocated_bytes, int)
    unallocated = max(0, held - gpu.allocated_bytes) / held if held else 0.0
    whose = "the whole device" if isinstance(gpu.server_bytes, Missing) else "the server"
    return judged(
        name,
        f"{_mb(held)} held by {whose}, {_mb(gpu.allocated_bytes)} allocated by its models as they loaded, "
        f"{unallocated:.0%} by neither; {_mb(used)} used on the device",
        threshold=_MEMORY_THRESHOLD,
        is_beyond=unallocated > LARGEST_UNALLOCATED,
        advice="CUDA's own context takes 300 to 500 MB of it, Triton's pool 64 MB for each GPU "
        "(--cuda-memory-pool-byte-size). What is beyond that is fragmentation or what a runtime took later: restart "
        "the server and compare; serve fixed shapes; give onnxruntime a workspace that it need not grow",
        figures={
            "device_used_bytes": used,
            "held_bytes": held,
            "allocated_bytes": gpu.allocated_bytes,
            "unallocated_share": unallocated,
        },
    )


def _bus(gpu: GpuEvidence) -> Reading:
    name = f"{gpu.name}: {BUS}"
    for each in (gpu.bus_bytes_per_s, gpu.link_bytes_per_s):
        if isinstance(each, Missing):
            return unmeasurable(name, _BUS_THRESHOLD, each)
    assert isinstance(gpu.bus_bytes_per_s, tuple)
    assert isinstance(gpu.link_bytes_per_s, float)
    use, peak = mean(gpu.bus_bytes_per_s) / gpu.link_bytes_per_s, max(gpu.bus_bytes_per_s) / gpu.link_bytes_per_s
    narrow = (
        "" if gpu.is_full_link else "the link is narrower than GPU and slot allow: reseat the board, see the BIOS; "
    )
    return judged(
        name,
        f"{use:.0%} of {gpu.link}, {gpu.link_bytes_per_s / 1e9:.1f} GB/s in one direction; {peak:.0%} at most in 20 ms",
        threshold=_BUS_THRESHOLD,
        is_beyond=use > HIGHEST_BUS_USE or not gpu.is_full_link,
        advice=f"{narrow}send UINT8 pixels of the model's size, not FP32 or full frames; let clients on this machine "
        "use CUDA shared memory; send JPEG and decode on the GPU; ask for boxes, not for the raw head",
        figures={"bus_use": use, "bus_use_peak": peak, "link_bytes_per_s": gpu.link_bytes_per_s},
    )


def gap(model: ModelEvidence, duration_s: float) -> Reading:
    """Time between one execution of an instance and its next, while requests wait for it."""
    name = f"{model.name}: gaps between executions"
    executions = sum(model.counters.executions.values())
    if model.may_answer_later:
        return unmeasurable(name, _GAP_THRESHOLD, Missing(f"{ANSWERS_LATER}; see the idle cores"))
    if not executions:
        return unmeasurable(name, _GAP_THRESHOLD, no_requests())
    busy_s = sum(model.counters.infer_ns.values()) / 1e9
    gap_ms = max(0.0, duration_s * model.instances - busy_s) / executions * 1e3
    value = (
        f"{gap_ms:.1f} ms on average between {executions / duration_s:.1f} executions/s, computing "
        f"{busy_s / duration_s / model.instances:.0%} of the time of {model.instances} instance(s)"
    )
    if not requests_wait(model) and gap_ms > LONGEST_GAP_MS:
        reason = f"{value}; hardly a request waited for it, so that is when there was nothing to do: {_LOAD}"
        return unmeasurable(name, _GAP_THRESHOLD, Missing(reason))
    return judged(
        name,
        value,
        threshold=_GAP_THRESHOLD,
        is_beyond=gap_ms > LONGEST_GAP_MS,
        advice="something is allocated, copied or compiled between executions: fixed shapes and CUDA graphs; "
        "execution_context_allocation_strategy STATIC; pinned memory; a second instance, which computes while the "
        "first copies",
        figures={"gap_ms": gap_ms, "executions_per_s": executions / duration_s, "busy_s": busy_s},
    )


_LOAD = "diagnose it under load, such as python -m benchmarks load, or your own cameras"


def no_requests() -> Missing:
    """Why a figure of requests is missing."""
    return Missing(f"no request came while it was watched: {_LOAD}")


def requests_wait(model: ModelEvidence) -> bool:
    """Whether there was always something to do: requests that waited, by Triton's times or by its metrics."""
    if model.may_answer_later:
        return not isinstance(model.pending, Missing) and mean(model.pending) >= 1
    return queue_share(model) > WAITING_SHARE


def queue_share(model: ModelEvidence) -> float:
    """Of the time that the server had a request, from its arrival to its answer."""
    return model.counters.parts_ns.get("queue", 0) / model.server_ns if model.server_ns else 0.0


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
