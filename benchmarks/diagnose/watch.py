"""Watches a running server for a while; it sends no request of its own to a model."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.diagnose.evidence import Evidence, GpuEvidence, MachineEvidence, Missing, ModelEvidence
from benchmarks.diagnose.gpu import BusGauge
from benchmarks.diagnose.processes import SHARED_MEMORY, ServerProcesses, find_server, machine_ticks
from benchmarks.diagnose.triton import Statistics, Triton, pending_requests
from builder.errors import ServerError
from builder.nvml import NoGpuError
from clients.wire.address import address_from

LOOK_S = 0.25
SHORTEST_RUN = 0.1
"""Of one core: with less than that to run, what threads waited for a core says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchOptions:
    """What was asked for."""

    url: str
    metrics_url: str
    model: str | None
    """None: every model that is READY."""
    duration_s: float


def watch(options: WatchOptions) -> Evidence:
    """Look at the server at the start, in between and at the end.

    Raises:
        ServerError: no Triton answers, it has no model READY, or not the one that was asked for.
        AddressError: the address is none.
    """
    address = address_from(options.url)
    with Triton(address) as triton, contextlib.ExitStack() as stack:
        models = _models(triton, options)
        server = find_server(address)
        processes = server if isinstance(server, Missing) else ServerProcesses(server)
        bus = _bus(stack, server)
        before = {model: triton.statistics(model) for model in models}
        machine = processes if isinstance(processes, Missing) else _Machine(processes)
        started = time.monotonic()
        waiting = _looks(options, started, None if isinstance(bus, Missing) else bus)
        after = {model: triton.statistics(model) for model in models}
        duration_s = time.monotonic() - started
        allocated = sum(each.gpu_bytes for each in after.values())
        return Evidence(
            url=options.url,
            duration_s=duration_s,
            models=tuple(_model(model, triton.config(model), before[model], after[model], waiting) for model in models),
            machine=machine if isinstance(machine, Missing) else machine.evidence(after),
            gpus=bus if isinstance(bus, Missing) else _gpus(bus, processes, allocated),
            regions=triton.shared_memory(),
        )


def _models(triton: Triton, options: WatchOptions) -> list[str]:
    ready = triton.ready_models()
    if not ready:
        raise ServerError(f"expected a model that is READY at {options.url}, found none: python -m clients models")
    if options.model is not None and options.model not in ready:
        raise ServerError(f"expected model {options.model} to be READY at {options.url}, found {', '.join(ready)}")
    asked = ready if options.model is None else [options.model]
    # Triton counts no execution of an ensemble: its steps compute.
    return list(dict.fromkeys(step for model in asked for step in _steps(triton.config(model), model)))


def _steps(config: Mapping[str, Any], model: str) -> list[str]:
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    return [each["model_name"] for each in steps] or [model]


def _bus(stack: contextlib.ExitStack, server: int | Missing) -> BusGauge | Missing:
    if isinstance(server, Missing):
        return server
    try:
        return stack.enter_context(contextlib.closing(BusGauge()))
    except NoGpuError as e:
        return Missing(f"no GPU: {e}")


def _gpus(bus: BusGauge, processes: ServerProcesses | Missing, allocated: int) -> tuple[GpuEvidence, ...]:
    pids = frozenset() if isinstance(processes, Missing) else frozenset(processes.pids())
    return bus.evidence(pids, allocated)


def _looks(options: WatchOptions, started: float, bus: BusGauge | None) -> list[dict[str, float]] | Missing:
    """The requests that wait, by model, at each look."""
    looks = []
    while (left := started + options.duration_s - time.monotonic()) > 0:
        if bus:
            bus.look()
        seen = pending_requests(options.metrics_url)
        if isinstance(seen, Missing):
            time.sleep(min(LOOK_S, left)) if bus else time.sleep(left)
            if not bus:
                return seen
            continue
        looks.append(seen)
        time.sleep(min(LOOK_S, left))
    return looks or Missing(f"no metrics at {options.metrics_url}")


def _model(
    name: str,
    config: Mapping[str, Any],
    before: Statistics,
    after: Statistics,
    waiting: list[dict[str, float]] | Missing,
) -> ModelEvidence:
    policy = config.get("dynamic_batching", {}).get("default_queue_policy", {})
    groups = config.get("instance_group", [])
    # Triton counts instances per listed GPU.
    instances = sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", []))) for group in groups)
    return ModelEvidence(
        name=name,
        counters=after.counters - before.counters,
        server_ns=after.server_ns - before.server_ns,
        instances=max(1, instances),
        max_batch_size=max(1, int(config.get("max_batch_size", 0))),
        max_queue_size=int(policy.get("max_queue_size", 0)),
        may_answer_later=config.get("backend") == "python",
        pending=waiting if isinstance(waiting, Missing) else tuple(look.get(name, 0.0) for look in waiting),
    )


class _Machine:
    """The machine from when this is made."""

    def __init__(self, processes: ServerProcesses) -> None:
        self._processes = processes
        self._started = time.monotonic()
        self._memory = processes.memory_bytes()
        self._cpu_s = processes.cpu_s()
        self._ticks = machine_ticks()
        self._scheduled = processes.scheduled_ns()
        self._periods = processes.cpu_periods()

    def evidence(self, statistics: Mapping[str, Statistics]) -> MachineEvidence:
        """Until now."""
        idle, steal, total = (now - then for now, then in zip(machine_ticks(), self._ticks, strict=True))
        space = os.statvfs(SHARED_MEMORY)
        return MachineEvidence(
            processes=len(self._processes.pids()),
            memory_bytes=(self._memory, self._processes.memory_bytes()),
            memory_limit_bytes=self._processes.memory_limit_bytes(),
            model_bytes=self._processes.model_bytes({name: [*each.versions] for name, each in statistics.items()}),
            cores=os.cpu_count() or 1,
            server_cpu_s=max(0.0, self._processes.cpu_s() - self._cpu_s),
            idle_share=idle / max(total, 1),
            steal_share=steal / max(total, 1),
            throttled_share=self._throttled(),
            waiting_share=self._waiting(),
            shared_memory_free=space.f_bavail / max(space.f_blocks, 1),
            shared_memory_bytes=space.f_blocks * space.f_frsize,
        )

    def _throttled(self) -> float | Missing:
        now = self._processes.cpu_periods()
        if isinstance(now, Missing) or isinstance(self._periods, Missing):
            return now if isinstance(now, Missing) else Missing("the CPU limit was set while it was watched")
        return (now[1] - self._periods[1]) / max(now[0] - self._periods[0], 1)

    def _waiting(self) -> float | Missing:
        now = self._processes.scheduled_ns()
        if now is None or self._scheduled is None:
            return Missing("this kernel does not count how long threads wait (CONFIG_SCHED_INFO)")
        ran, waited = (max(0, after - before) for after, before in zip(now, self._scheduled, strict=True))
        if ran + waited < SHORTEST_RUN * (time.monotonic() - self._started) * 1e9:
            return Missing("the server had hardly anything to run")
        return waited / (ran + waited)
