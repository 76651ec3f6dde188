"""A server that is killed and started again under load: what becomes of the requests, and what is left."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.clients_report import Restarts
from benchmarks.served import triton_server
from benchmarks.threads import running
from clients import ClientError, Detector
from clients.memory.regions import SHARED_MEMORY

KILL_CALLERS = 4
KILL_TIMEOUT_S = 5.0
GRACE_S = 0.5
"""Beyond its deadline, what a busy machine takes to wake a thread up."""
UNDER_LOAD_S = 1.0
RETRY_S = 0.05


def restart_under_load(
    repository: Path, model: str, kills: int, frames: Sequence[NDArray[np.uint8]], progress: Callable[[str], None]
) -> Restarts:
    """Kill the server under load and start it again, so often; ``frames`` are BGR, uint8 [H, W, 3].

    Raises:
        BuilderError: tritonserver cannot be started.
    """
    segments = set(_segments())
    outcomes = _Outcomes()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(triton_server(repository, model))
        # A restart has to find the same ports.
        detectors = [
            stack.enter_context(Detector(url, model, timeout_s=KILL_TIMEOUT_S, send=send))
            for url, send in (
                (server.grpc_url, "shared-memory"),
                (server.http_url, "shared-memory"),
                (server.grpc_url, "pixels"),
            )
        ]
        with _load(detectors, frames, outcomes):
            for number in range(kills):
                time.sleep(UNDER_LOAD_S)
                os.kill(server.pid, signal.SIGKILL)
                server.stop()
                server.start()
                progress(f"kill {number + 1} of {kills}: ready again after {server.ready_after_s:.1f} s")
            answered = outcomes.counts["answered"]
            time.sleep(UNDER_LOAD_S)
            goes_on = outcomes.counts["answered"] > answered
    return Restarts(
        kills=kills,
        timeout_s=KILL_TIMEOUT_S,
        outcomes=dict(sorted(outcomes.counts.items())),
        untyped=outcomes.untyped,
        longest_s=outcomes.longest_s,
        late=outcomes.late,
        goes_on=goes_on,
        segments_left=sorted(set(_segments()) - segments),
    )


def _segments() -> Iterator[str]:
    """Files of this process's clients and servers."""
    for owner in ("yolo_triton_client", "yolo_triton_server"):
        yield from (path.name for path in SHARED_MEMORY.glob(f"{owner}_{os.getpid()}_*"))


@dataclass
class _Outcomes:
    """What became of every request."""

    counts: Counter[str] = field(default_factory=Counter)
    untyped: int = 0
    late: int = 0
    longest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, *, is_typed: bool, duration_s: float) -> None:
        """Count one."""
        with self.lock:
            self.counts[kind] += 1
            self.untyped += not is_typed
            self.late += duration_s > KILL_TIMEOUT_S + GRACE_S
            self.longest_s = max(self.longest_s, duration_s)


@contextlib.contextmanager
def _load(detectors: Sequence[Detector], frames: Sequence[NDArray[np.uint8]], outcomes: _Outcomes) -> Iterator[None]:
    """Callers of each detector in turn, as long as the block runs."""
    stop = threading.Event()

    def call(number: int) -> None:
        for frame in cycle(frames):
            if stop.is_set():
                return
            start = time.perf_counter()
            kind, is_typed = "answered", True
            try:
                detectors[number % len(detectors)].detect(frame)
            except Exception as error:
                kind, is_typed = type(error).__name__, isinstance(error, ClientError)
            outcomes.add(kind, is_typed=is_typed, duration_s=time.perf_counter() - start)
            if kind != "answered":
                stop.wait(RETRY_S)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(KILL_CALLERS * len(detectors))]
    with running(threads, stop.set):
        yield
