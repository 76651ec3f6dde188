"""Drives NVIDIA's perf_analyzer: requests that are ready to be sent, by concurrency or by rate.

What counts are the moments at which each request was sent and answered, which it writes down; its own figures are means
over windows that hold the warm-up. What the server did meanwhile are Triton's own counters.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.counters import Statistics
from benchmarks.load.inputs import write_input_data, write_poisson_arrivals
from benchmarks.load.monitor import Monitor
from benchmarks.load.points import ClientTimes, ClosedLoop, Load, LoadPoint, OpenLoop
from benchmarks.load.windows import LoadWindow, point_of
from benchmarks.perf_tools import INSTALL, NAME, Program, find_program
from builder.errors import ServerError, SpecError
from builder.server_regions import SHARED_MEMORY
from builder.signals import held_back
from clients.contract import INPUT, OUTPUT
from clients.errors import one_line
from clients.wire.address import address_from

__all__ = ["ClosedLoop", "Load", "OpenLoop", "PerfAnalyzer", "Target", "find_perf_analyzer", "write_input_data"]

_WINDOWS = 3
"""It ends after the third, since any deviation is within ``_ANY_DEVIATION_PERCENT``: on a shared machine, windows that
agree within its 10 % may never come. How far repetitions agree is for the report to say."""
_ANY_DEVIATION_PERCENT = 1_000_000
_WINDOW_STRETCH = 1.2
"""It adds a fifth to each window that it is asked for."""
_START_S = 60.0
"""What it may take beyond its windows."""
_SEND, _RECEIVE = "Client Send", "Client Recv"
_TOO_SHORT = "in a part of the window no request was answered; measure for longer, or with more load"
_NO_ANSWER = "No valid requests recorded"
_ERROR = re.compile(r"had error: (?:\[request id: [^]]*\] )?(?P<reason>.+)")
_DELAYED = re.compile(r"(?P<percent>[\d.]+)% of the requests were delayed")


class NotMeasuredError(ServerError):
    """perf_analyzer has no figures of this load; others may be measured."""

    def __init__(self, what: str, reason: str) -> None:
        """``what`` was not measured, and the reason without it."""
        self.reason = reason
        super().__init__(f"{what}: {reason}")


class RequestsFailedError(NotMeasuredError):
    """The server answered a request with an error, at which perf_analyzer stops."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Which model is loaded, and what it is sent."""

    url: str
    """``grpc://HOST:PORT`` or ``http://HOST:PORT``."""
    model: str
    shape: tuple[int, ...]
    """Of one image, [H, W, 3]."""
    input_name: str = INPUT
    data: Path | None = None
    """A file of ``write_input_data``; None: random bytes."""
    shared_memory: bool = False
    """The server reads the input from system shared memory and writes its answer there; perf_analyzer has the server
    forget every other region before."""
    batch: int = 1
    """Images in a request."""
    server_pid: int | None = None
    """Of tritonserver, the leader of its session, where it runs on this machine."""


def find_perf_analyzer(given: Path | None = None) -> PerfAnalyzer:
    """The one that is given, else that on PATH, of ``make tools`` or of its wheel; raises SpecError where none runs."""
    return PerfAnalyzer(find_program(given))


class PerfAnalyzer:
    """The program."""

    def __init__(self, program: Program) -> None:
        """Find out its version; raises SpecError where it does not run."""
        self._program = program
        said = self._run([str(program.executable), "--version"], _START_S)
        text = one_line(said.stdout + said.stderr)
        if "Perf Analyzer Version" not in text:
            raise SpecError(f"{program.executable}: expected perf_analyzer, but it says {text[-200:]!r}; {INSTALL}")
        self.name = text.replace("Perf Analyzer Version", NAME)

    def command_line(self, target: Target, load: Load, *, seconds: float, seed: int = 0) -> list[str]:
        """What measures the load for so long; it can be run by hand. ``seed`` is of random arrivals."""
        address = address_from(target.url)
        environment = self._program.environment
        shape = ",".join(map(str, target.shape))
        return [
            *(["env", *(f"{key}={value}" for key, value in environment.items())] if environment else []),
            *(str(self._program.executable), "-m", target.model),
            *("-i", "grpc" if address.is_grpc else "http", "-u", address.netloc, "-b", str(target.batch)),
            *(("--input-data", str(target.data)) if target.data else ("--shape", f"{target.input_name}:{shape}")),
            *(("--shared-memory", "system") if target.shared_memory else ()),
            *_load_arguments(load, seconds, seed),
            *("-p", str(math.ceil(seconds * 1e3 / _WINDOWS / _WINDOW_STRETCH)), "-r", str(_WINDOWS)),
            *("-s", str(_ANY_DEVIATION_PERCENT)),
        ]

    def measure(
        self, target: Target, load: Load, *, window_s: float, repeats: int = 1, warm_up_s: float = 1.0
    ) -> LoadPoint:
        """So many repetitions of the load, each of a warm-up, which counts nothing, and a window of that length.

        Raises:
            RequestsFailedError: the server failed a request; perf_analyzer measures no load at which one fails.
            NotMeasuredError: there are no answers in a window.
            ServerError: the server does not answer.
        """
        return point_of(
            load,
            [self.window(target, load, window_s=window_s, warm_up_s=warm_up_s, seed=seed) for seed in range(repeats)],
        )

    def window(
        self, target: Target, load: Load, *, window_s: float, warm_up_s: float = 1.0, seed: int = 0
    ) -> LoadWindow:
        """One repetition, by another ``seed`` with other random arrivals; raises what ``measure`` does."""
        command = self.command_line(target, load, seconds=warm_up_s + window_s, seed=seed)
        with tempfile.TemporaryDirectory() as folder, Statistics(address_from(target.url)) as server:
            moments, figures = Path(folder, "moments.json"), Path(folder, "figures.csv")
            with _leaving_no_region(target), Monitor(server, target.model, target.server_pid) as monitor:
                said = self._measured(
                    [*command, "-f", str(figures), "--profile-export-file", str(moments)],
                    f"{target.model}, {load}",
                    timeout_s=_START_S + 2 * (warm_up_s + window_s),
                )
            answered = answers_in(moments.read_bytes(), warm_up_s)
            client_ms = client_times_in(figures.read_text())
        if not len(answered.latencies_s):
            raise NotMeasuredError(f"{target.model}, {load}", _TOO_SHORT)
        counters, usage = monitor.between(answered.opens_ns, answered.closes_ns)
        delayed = _DELAYED.search(said)
        return LoadWindow(
            seconds=(answered.closes_ns - answered.opens_ns) / 1e9,
            batch=target.batch,
            latencies_s=answered.latencies_s,
            counters=counters,
            client_ms=client_ms,
            usage=usage,
            delayed_share=float(delayed["percent"]) / 100 if delayed else 0.0,
        )

    def _measured(self, command: Sequence[str], what: str, timeout_s: float) -> str:
        """What it says when it is done; raises ServerError where it did not measure."""
        result = self._run(command, timeout_s)
        said = result.stdout + result.stderr
        if result.returncode == 0:
            return said
        if _NO_ANSWER in said:
            raise NotMeasuredError(what, _TOO_SHORT)
        failed = _ERROR.search(said)
        if failed:
            raise RequestsFailedError(what, f"the server failed a request: {one_line(failed['reason'])}")
        raise ServerError(
            f"{what}: perf_analyzer ended with exit code {result.returncode}: {one_line(said)[-300:]}; its command: "
            f"{shlex.join(command)}"
        )

    def _run(self, command: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        program = self._program
        try:
            with contextlib.ExitStack() as stack:
                # A signal as it starts would leave it behind, and the regions that it makes.
                with held_back(signal.SIGINT, signal.SIGTERM):
                    process = stack.enter_context(
                        subprocess.Popen(
                            command,
                            stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE,
                            # A refusal may quote what was sent.
                            errors="replace",
                            text=True,
                            env={**os.environ, **program.environment},
                        )
                    )
                    stack.callback(process.kill)
                said, complained = process.communicate(timeout=timeout_s)
                return subprocess.CompletedProcess(command, process.returncode, said, complained)
        except OSError as error:
            raise SpecError(f"{program.executable}: cannot be run ({error.strerror}); {INSTALL}") from error
        except subprocess.TimeoutExpired as error:
            raise ServerError(
                f"expected perf_analyzer to end within {timeout_s:.0f} s, it did not; does the server answer?"
            ) from error


@contextlib.contextmanager
def _leaving_no_region(target: Target) -> Iterator[None]:
    """Of system shared memory, which perf_analyzer names after the tensors and leaves behind where it is ended."""

    def regions() -> set[Path]:
        names = (f"{target.input_name}_*", OUTPUT) if target.shared_memory else ()
        return {path for name in names for path in SHARED_MEMORY.glob(name)}

    before = regions()
    try:
        yield
    finally:
        for region in regions() - before:
            region.unlink(missing_ok=True)


def _load_arguments(load: Load, seconds: float, seed: int) -> list[str]:
    if isinstance(load, ClosedLoop):
        return ["--concurrency-range", str(load.concurrency)]
    # Its blocking calls are four at a time: more would wait in the client, and the loop would be closed.
    if load.distribution == "poisson":
        return ["-a", "--request-intervals", str(write_poisson_arrivals(load.rate_per_s, seconds, seed))]
    return ["-a", "--request-rate-range", f"{load.rate_per_s:g}", "--request-distribution", load.distribution]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """The requests that were answered within a window."""

    opens_ns: int
    closes_ns: int
    """Of the system's clock."""
    latencies_s: NDArray[np.float64]


def answers_in(moments: bytes, warm_up_s: float) -> Answers:
    """Of a file of ``--profile-export-file``, without those that were answered during the warm-up."""
    # The file holds the answers' bytes as they are, which are no UTF-8; every byte is a character of Latin-1.
    experiment = json.loads(moments.decode("latin-1"))["experiments"][0]
    edges_ns = experiment["window_boundaries"]
    times_ns = np.array(
        [(each["timestamp"], each["response_timestamps"][-1]) for each in experiment["requests"]], np.int64
    ).reshape(-1, 2)
    opens_ns, closes_ns = min(edges_ns) + round(warm_up_s * 1e9), max(edges_ns)
    sent_ns, answered_ns = times_ns.T
    within = (answered_ns > opens_ns) & (answered_ns <= closes_ns)
    return Answers(opens_ns=opens_ns, closes_ns=closes_ns, latencies_s=(answered_ns - sent_ns)[within] / 1e9)


def client_times_in(figures: str) -> ClientTimes | None:
    """Of a file of ``-f``, in microseconds there; the warm-up is in these means."""
    rows = list(csv.DictReader(io.StringIO(figures)))
    if not rows or not {_SEND, _RECEIVE} <= rows[0].keys():
        return None
    return ClientTimes(send=float(rows[0][_SEND]) / 1e3, receive=float(rows[0][_RECEIVE]) / 1e3)
