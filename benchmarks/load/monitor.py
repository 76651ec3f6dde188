"""Watches a server from beside it while something else loads it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from benchmarks.load.counters import Counters, Statistics
from benchmarks.load.points import Usage
from benchmarks.load.usage import ServerProcesses
from builder.errors import ServerError
from builder.nvml import GpuGauge, NoGpuError

INTERVAL_S = 0.25
"""From one look to the next: often enough that a window's edges are met, seldom enough to cost the server nothing."""
LOOKS_PER_MEMORY = 4
"""The system counts the pages of every process for it, which takes milliseconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What was seen at one moment."""

    at_ns: int
    """Of the system's clock, as perf_analyzer's."""
    counters: Counters
    cpu_s: float | None
    memory_bytes: int | None
    gpu_utilization: float | None
    gpu_memory_bytes: int | None


class Monitor:
    """Looks at the server in turns from a thread of its own: ``with Monitor(statistics, model, pid) as monitor``.

    The connection is this thread's until the end.
    """

    def __init__(self, statistics: Statistics, model: str, server_pid: int | None) -> None:
        """Prepare to watch; without a process id, the server's machine is another, and its use is not known."""
        self._statistics, self._model = statistics, model
        self._processes = None if server_pid is None else ServerProcesses(server_pid)
        self._gpus = None if server_pid is None else _gpus()
        self._looks: list[Look] = []
        self._done = threading.Event()
        self._failure: ServerError | None = None
        self._thread = threading.Thread(target=self._watch, name="load-monitor", daemon=True)

    def __enter__(self) -> Self:
        """Start; raises ServerError where the server does not tell."""
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Look a last time; raises ServerError where a look failed."""
        self._done.set()
        self._thread.join()
        with contextlib.closing(self._gpus) if self._gpus else contextlib.nullcontext():
            if error is None:
                if self._failure:
                    raise self._failure
                self._look()

    def between(self, opens_ns: int, closes_ns: int) -> tuple[Counters, Usage]:
        """What was counted and used in that time, from the last look before it to the first after it."""
        first = max((number for number, look in enumerate(self._looks) if look.at_ns <= opens_ns), default=0)
        after = (number for number, look in enumerate(self._looks) if look.at_ns >= closes_ns)
        looks = self._looks[first : next(after, len(self._looks)) + 1]
        return looks[-1].counters - looks[0].counters, _usage(looks)

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_S):
            try:
                self._look()
            except ServerError as error:
                self._failure = error
                return

    def _look(self) -> None:
        gpu = self._gpus.read() if self._gpus else None
        with_memory = self._processes is not None and len(self._looks) % LOOKS_PER_MEMORY == 0
        self._looks.append(
            Look(
                counters=self._statistics.counters(self._model),
                cpu_s=self._processes.cpu_s() if self._processes else None,
                memory_bytes=self._processes.memory_bytes() if self._processes and with_memory else None,
                gpu_utilization=gpu.utilization if gpu else None,
                gpu_memory_bytes=gpu.used_bytes if gpu else None,
                at_ns=time.time_ns(),
            )
        )


def _gpus() -> GpuGauge | None:
    try:
        return GpuGauge()
    except NoGpuError:
        return None


def _usage(looks: Sequence[Look]) -> Usage:
    seconds = (looks[-1].at_ns - looks[0].at_ns) / 1e9
    first_s, last_s = looks[0].cpu_s, looks[-1].cpu_s
    busy_s = None if first_s is None or last_s is None or not seconds else last_s - first_s
    gpu = [look.gpu_utilization for look in looks if look.gpu_utilization is not None]
    return Usage(
        cpu_share=None if busy_s is None else busy_s / seconds / (os.cpu_count() or 1),
        server_memory_bytes=_most(look.memory_bytes for look in looks),
        gpu_utilization=sum(gpu) / len(gpu) if gpu else None,
        gpu_memory_bytes=_most(look.gpu_memory_bytes for look in looks),
    )


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
