"""What a training waits for: data, computing or other processes; and how many processes should load data."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_DECIDE_STEPS = 4
"""Steps that load in the training process itself before the number of workers is chosen; the first is left out."""
_HEADROOM = 1.25
"""Loading times vary: workers that just keep up on average do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shares:
    """Of the time of a step, between 0 and 1."""

    step_s: float
    data: float
    communication: float

    def sentence(self, workers: int, device: str) -> str:
        """What binds, and what would help."""
        figures = f"a step takes {self.step_s * 1000:.0f} ms, {self.data:.0%} of it waiting for data"
        if self.communication:
            figures += f", at most {self.communication:.0%} exchanging gradients and batch statistics"
        if self.data >= max(0.15, self.communication):
            more = "more --workers-per-device, " if device != "cpu" else ""
            return f"{figures}: data binds; {more}--cache ram or --cache disk would help ({workers} worker(s) now)"
        if self.communication >= 0.25:
            return f"{figures}: communication binds; a larger --batch would help"
        return f"{figures}: computing binds"


class DataPath:
    """Measures the steps of one process."""

    def __init__(self) -> None:
        """Begin with nothing measured."""
        self.communication_s = 0.0
        """Of one exchange of all gradients, see ``exchange_seconds``."""
        self._waits: list[float] = []
        self._steps: list[float] = []
        self._began_s = time.perf_counter()

    def next_batch(self, batches: Iterator[Any]) -> Any:
        """The next batch; the time until it is there counts as waiting, and begins a step."""
        self._began_s = time.perf_counter()
        batch = next(batches)
        self._waits.append(time.perf_counter() - self._began_s)
        return batch

    def step_done(self) -> None:
        """End the step that ``next_batch`` began."""
        self._steps.append(time.perf_counter() - self._began_s)

    def shares(self, statistics_s: float = 0.0) -> Shares | None:
        """Of the steps since the last time this was asked; None where there were none.

        ``statistics_s`` is what they waited for batch norm's exchanges, all together, where that is known.
        """
        waits, steps = self._waits, self._steps
        self._waits, self._steps = [], []
        if not steps:
            return None
        total = sum(steps)
        exchanged_s = self.communication_s * len(steps) + statistics_s
        return Shares(step_s=total / len(steps), data=sum(waits) / total, communication=min(exchanged_s / total, 1.0))

    def chosen_workers(self, spare_cores: int) -> int | None:
        """How many workers hide the loading behind the computing; None before it can be known."""
        if len(self._steps) < _DECIDE_STEPS:
            return None
        wait = statistics.median(self._waits[1:])
        compute = max(statistics.median(self._steps[1:]) - wait, 1e-6)
        return min(spare_cores, math.ceil(_HEADROOM * wait / compute))


def spare_cores(device: str, threads: int, local_world: int) -> int:
    """Cores of this machine that no training process computes on, for each of those processes."""
    cores = len(os.sched_getaffinity(0))
    busy = threads if device == "cpu" else 1
    return max(cores // local_world - busy, 0)


def exchange_seconds(group: Any, parameter_bytes: int, repeats: int = 3) -> float:
    """The time of one all-reduce as large as all gradients, the least of ``repeats``; 0 with one process."""
    if group.process.world == 1:
        return 0.0
    import torch

    buffer = torch.zeros(parameter_bytes // 4, device=group.device)
    times = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        group.add(buffer)
        if group.device.type == "cuda":
            torch.cuda.synchronize(group.device)
        times.append(time.perf_counter() - began_s)
    return min(times)
