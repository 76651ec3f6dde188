"""What can be had without a GPU: where the time of requests goes, and what the server's processes want for."""

from __future__ import annotations

from statistics import mean

from benchmarks.diagnose.evidence import Evidence, MachineEvidence, Missing, ModelEvidence
from benchmarks.diagnose.gpu_readings import ANSWERS_LATER, no_requests, queue_share, requests_wait
from benchmarks.diagnose.reading import Reading, judged, unmeasurable

LONGEST_QUEUE_SHARE = 0.5
LARGEST_TRANSFER_SHARE = 0.2
FULL_QUEUE_SHARE = 0.8
LARGEST_STEAL = 0.02
LARGEST_THROTTLED = 0.01
LONGEST_CORE_WAIT = 0.2
LARGEST_IDLE = 0.15
LARGEST_OTHERS = 0.1
LARGEST_MEMORY = 0.7
LARGEST_GROWTH = 0.02
SMALLEST_GROWTH_BYTES = 8_000_000
SMALLEST_SHARED_MEMORY_FREE = 0.1
_CPU = ("CPU", "CPU of other processes")


def model_readings(model: ModelEvidence, duration_s: float) -> list[Reading]:
    """What one model's requests met."""
    return [_times(model), _batches(model, duration_s), _pending(model), _failures(model)]


def _times(model: ModelEvidence) -> Reading:
    name = f"{model.name}: where a request's time goes"
    threshold = f"at most {LONGEST_QUEUE_SHARE:.0%} in the queue, {LARGEST_TRANSFER_SHARE:.0%} for input and output"
    requests = model.counters.requests
    if not requests or not model.server_ns:
        return unmeasurable(name, threshold, no_requests())
    if model.may_answer_later:
        queue_ms = model.counters.parts_ns.get("queue", 0) / 1e6 / requests
        reason = (
            f"{ANSWERS_LATER}. The queue took {queue_ms:.1f} ms of each of {requests} requests; measure the whole at "
            "the client (python -m benchmarks load)"
        )
        return unmeasurable(name, threshold, Missing(reason))
    parts_ms = {part: ns / 1e6 / requests for part, ns in model.counters.parts_ns.items()}
    total_ms = model.server_ns / 1e6 / requests
    queue = queue_share(model)
    transfer = (parts_ms.get("compute_input", 0.0) + parts_ms.get("compute_output", 0.0)) / total_ms
    told = [(part.removeprefix("compute_"), ms) for part, ms in parts_ms.items()]
    return judged(
        name,
        f"{total_ms:.1f} ms in the server: " + ", ".join(f"{part} {ms:.1f} ({ms / total_ms:.0%})" for part, ms in told),
        threshold=threshold,
        is_beyond=queue > LONGEST_QUEUE_SHARE or transfer > LARGEST_TRANSFER_SHARE,
        advice="in the queue: more comes than is computed, so more instances, a larger batch, a shorter queue delay, "
        "or another GPU (python -m benchmarks tune, capacity); input and output: UINT8 pixels, shared memory, boxes "
        "instead of the raw head",
        figures={"total_ms": total_ms, **{f"{part}_ms": ms for part, ms in told}, "queue_share": queue},
    )


def _batches(model: ModelEvidence, duration_s: float) -> Reading:
    name = f"{model.name}: executions"
    threshold = "more than one image in each while requests wait"
    executions = sum(model.counters.executions.values())
    if not executions:
        return unmeasurable(name, threshold, no_requests())
    images = sum(size * count for size, count in model.counters.executions.items())
    is_beyond = requests_wait(model) and images == executions and model.max_batch_size > 1
    return judged(
        name,
        f"{executions / duration_s:.1f}/s of {images / executions:.2f} images on average, {model.max_batch_size} at "
        "most",
        threshold=threshold,
        is_beyond=is_beyond,
        advice="requests wait and yet none are batched: see that dynamic_batching is on, that the plan's profile takes "
        "more than one image, and that max_queue_delay_microseconds is not 0 (python -m benchmarks load says which)",
        figures={"executions_per_s": executions / duration_s, "images_per_s": images / duration_s},
    )


def _pending(model: ModelEvidence) -> Reading:
    name = f"{model.name}: pending requests"
    filling = 2 * model.max_batch_size * model.instances
    limit = min(filling, model.max_queue_size * FULL_QUEUE_SHARE) if model.max_queue_size else filling
    threshold = f"at most {limit:g} on average: 2 x batch x instances keep it busy, and what the queue may hold"
    if isinstance(model.pending, Missing):
        return unmeasurable(name, threshold, model.pending)
    waiting, most = mean(model.pending), max(model.pending)
    return judged(
        name,
        f"{waiting:.1f} on average, {most:.0f} at most, of {model.max_queue_size or 'as many as come'} that may wait",
        threshold=threshold,
        is_beyond=waiting > limit,
        advice="more wait than the model can have under way, which adds latency and no throughput: fewer requests in "
        "flight at the clients, a shorter queue (--max-queue-size), or more instances or GPUs",
        figures={"pending_mean": waiting, "pending_max": most},
    )


def _failures(model: ModelEvidence) -> Reading:
    requests, failed = model.counters.requests, model.counters.failed
    return judged(
        f"{model.name}: failed requests",
        f"{failed} of {requests + failed}",
        threshold="none",
        is_beyond=failed > 0,
        advice="refused by the queue's bound or its timeout, or failed by the model: nv_inference_request_failure has "
        "the reason, the server's log the words",
        figures={"failed": failed, "answered": requests},
    )


def machine_readings(evidence: Evidence) -> list[Reading]:
    """What the server's processes and its machine did."""
    machine = evidence.machine
    if isinstance(machine, Missing):
        missing = machine
        return [
            unmeasurable(name, "", missing)
            for name in (*_CPU, "CPU throttling", "CPU steal", "waiting for a core", "server memory", "shared memory")
        ]
    return [
        _cores(machine, evidence),
        _others(machine, evidence),
        _throttling(machine),
        _steal(machine),
        _waiting(machine),
        _memory(machine, evidence.duration_s),
        _shared_memory(machine, evidence),
    ]


def _cores(machine: MachineEvidence, evidence: Evidence) -> Reading:
    waits = any(map(requests_wait, evidence.models))
    server = _server_share(machine, evidence)
    return judged(
        "CPU",
        f"the server used {server:.0%} of {machine.cores} cores, idle {machine.idle_share:.0%}"
        + ("" if waits else "; hardly a request waited in the queue"),
        threshold=f"at most {LARGEST_IDLE:.0%} idle while requests wait",
        is_beyond=waits and machine.idle_share > LARGEST_IDLE and isinstance(evidence.gpus, Missing),
        advice="cores are idle though requests wait: more inference_threads or instances for a model on the CPU, or a "
        "queue policy that holds requests back (python -m benchmarks queue-policy)",
        figures={"server_share": server, "idle_share": machine.idle_share},
    )


def _others(machine: MachineEvidence, evidence: Evidence) -> Reading:
    share = max(0.0, 1 - machine.idle_share - machine.steal_share - _server_share(machine, evidence))
    return judged(
        _CPU[1],
        f"{share:.0%} of {machine.cores} cores, clients on this machine among them",
        threshold=f"at most {LARGEST_OTHERS:.0%} where the model computes on the CPU",
        is_beyond=share > LARGEST_OTHERS and isinstance(evidence.gpus, Missing),
        advice="they take from the server what its figures are measured by, and what its requests wait for: stop them, "
        "move clients to another machine, or give the server cores of its own (resources.requests.cpu, taskset)",
        figures={"others_share": share},
    )


def _server_share(machine: MachineEvidence, evidence: Evidence) -> float:
    return machine.server_cpu_s / evidence.duration_s / machine.cores


def _throttling(machine: MachineEvidence) -> Reading:
    threshold = f"at most {LARGEST_THROTTLED:.0%} of the periods"
    if isinstance(machine.throttled_share, Missing):
        return unmeasurable("CPU throttling", threshold, machine.throttled_share)
    return judged(
        "CPU throttling",
        f"{machine.throttled_share:.1%} of the periods of the container's CPU limit",
        threshold=threshold,
        is_beyond=machine.throttled_share > LARGEST_THROTTLED,
        advice="the limit stops all of the server's threads for the rest of each period, which is latency: raise "
        "resources.limits.cpu, or leave it out and set requests",
        figures={"throttled_share": machine.throttled_share},
    )


def _steal(machine: MachineEvidence) -> Reading:
    return judged(
        "CPU steal",
        f"{machine.steal_share:.1%} of the cores' time",
        threshold=f"at most {LARGEST_STEAL:.0%}",
        is_beyond=machine.steal_share > LARGEST_STEAL,
        advice="the hypervisor gives this machine's cores to others: dedicated cores, or another machine",
        figures={"steal_share": machine.steal_share},
    )


def _waiting(machine: MachineEvidence) -> Reading:
    threshold = f"at most {LONGEST_CORE_WAIT:.0%} of the time that its threads could run"
    if isinstance(machine.waiting_share, Missing):
        return unmeasurable("waiting for a core", threshold, machine.waiting_share)
    return judged(
        "waiting for a core",
        f"{machine.waiting_share:.0%} of the time that the server's threads could run",
        threshold=threshold,
        is_beyond=machine.waiting_share > LONGEST_CORE_WAIT,
        advice="more threads want to run than there are cores: move clients and other work elsewhere, or give the "
        "model fewer inference_threads or instances",
        figures={"waiting_share": machine.waiting_share},
    )


def _memory(machine: MachineEvidence, duration_s: float) -> Reading:
    before, after = machine.memory_bytes
    growth = after - before
    share = after / machine.memory_limit_bytes
    models = (
        machine.model_bytes.reason
        if isinstance(machine.model_bytes, Missing)
        else f"{after / max(machine.model_bytes, 1):,.0f} times the {machine.model_bytes / 1e6:.1f} MB of its models' "
        "files"
    )
    return judged(
        "server memory",
        f"{after / 1e6:,.0f} MB in {machine.processes} processes, {models}; {share:.0%} of the "
        f"{machine.memory_limit_bytes / 1e9:.1f} GB that it may have; {growth / 1e6:+.1f} MB in {duration_s:.1f} s",
        threshold=f"at most {LARGEST_MEMORY:.0%} of what it may have, growth at most {LARGEST_GROWTH:.0%}",
        is_beyond=share > LARGEST_MEMORY or growth > max(LARGEST_GROWTH * before, SMALLEST_GROWTH_BYTES),
        advice="much: fewer instances (each has its own copy on the CPU) or models; growth: watch it for longer, "
        "since the first requests take memory that stays; if it goes on, a model leaks",
        figures={"memory_bytes": after, "growth_bytes": growth, "share_of_limit": share},
    )


def _shared_memory(machine: MachineEvidence, evidence: Evidence) -> Reading:
    regions = evidence.regions
    registered = (
        regions.reason
        if isinstance(regions, Missing)
        else f"{len(regions)} regions registered, {sum(regions.values()) / 1e6:.1f} MB"
    )
    return judged(
        "shared memory",
        f"{registered}; {machine.shared_memory_free:.0%} of {machine.shared_memory_bytes / 1e6:,.0f} MB in /dev/shm "
        "free",
        threshold=f"at least {SMALLEST_SHARED_MEMORY_FREE:.0%} free",
        is_beyond=machine.shared_memory_free < SMALLEST_SHARED_MEMORY_FREE,
        advice="models on the Python backend fail when it is full: start the container with --shm-size=1g or more "
        "(Docker gives 64 MB), unregister regions of clients that are gone, remove their files",
        figures={"free_share": machine.shared_memory_free, "size_bytes": machine.shared_memory_bytes},
    )
