"""What was seen of a running server, as numbers; where one could not be had, why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.load.counters import Counters


@dataclass(frozen=True, slots=True)
class Missing:
    """A figure that cannot be had here, and what would give it."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEvidence:
    """What Triton counted of one model while it was watched."""

    name: str
    counters: Counters
    server_ns: int
    """Of all answered requests, from their arrival to their answer."""
    instances: int
    max_batch_size: int
    max_queue_size: int
    """0: as many as come."""
    may_answer_later: bool
    """Whether a call may end before its images do, as those of the builder's model on OpenVINO: the Python backend."""
    pending: tuple[float, ...] | Missing
    """Requests that waited, at each look."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineEvidence:
    """What the server's processes and its machine did; shares are of the time that was watched."""

    processes: int
    memory_bytes: tuple[int, int]
    """At the start and at the end; a page that several share counts once."""
    memory_limit_bytes: int
    model_bytes: int | Missing
    """The files of the served versions."""
    cores: int
    server_cpu_s: float
    idle_share: float
    """Of all cores."""
    steal_share: float
    """Of all cores: what the hypervisor gave to others."""
    throttled_share: float | Missing
    """Of the periods of the cgroup's CPU limit."""
    waiting_share: float | Missing
    """Of the time that the server's threads could have run: what they waited for a core."""
    shared_memory_free: float
    """Of /dev/shm."""
    shared_memory_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuEvidence:
    """What NVML and Triton tell of one GPU."""

    name: str
    used_bytes: int | Missing
    """By all processes."""
    server_bytes: int | Missing
    """By the server's processes."""
    allocated_bytes: int | Missing
    """By the models' runtimes, as Triton saw it when it loaded them."""
    bus_bytes_per_s: tuple[float, ...] | Missing
    """The busier direction at each look; each is the mean of 20 ms."""
    link_bytes_per_s: float | Missing
    """One direction, at the width and generation that it had under this load."""
    link: str
    """``generation 4 x16``."""
    is_full_link: bool
    """Whether the link is as wide as GPU and slot allow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything."""

    url: str
    duration_s: float
    models: tuple[ModelEvidence, ...]
    machine: MachineEvidence | Missing
    gpus: tuple[GpuEvidence, ...] | Missing
    regions: Mapping[str, int] | Missing
    """Bytes of each region of shared memory that clients have registered."""
