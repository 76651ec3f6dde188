"""The processes of a contestant: its worker, what they hold in memory, and what others take of the CPU."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.machine import PROC
from builder.errors import BuilderError

END_S = 10


class PeerError(BuilderError):
    """A contestant cannot run, or stopped; the message is the reason."""


class Worker:
    """A client of ``benchmarks.peers.worker``: ``with Worker(spec) as worker: worker.ask("boxes")``."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Start the process, and wait until it has connected or loaded its model; raises PeerError."""
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed with the worker
        command = [sys.executable, "-m", "benchmarks.peers.worker", json.dumps(spec)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # A session of its own is how its memory and CPU time are told from others'.
            start_new_session=True,
        )
        try:
            self._answer()
        except BaseException:
            self.close(at_once=True)
            raise

    def __enter__(self) -> Self:
        """It runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self.close(at_once=kind is not None and issubclass(kind, KeyboardInterrupt))

    @property
    def pid(self) -> int:
        """The leader of its session."""
        return self._process.pid

    def ask(self, what: str, **arguments: Any) -> Any:
        """What ``worker.Worker``'s method of that name gives; raises PeerError."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": what, **arguments}), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self, *, at_once: bool = False) -> None:
        """End the process; ``at_once`` whatever it does."""
        if at_once:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        # It ends with its input.
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        end(self._process)
        self._log.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise PeerError(f"its process ended with {self._process.returncode}: {last_line(self._log.fileno())}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["result"]


def end(process: subprocess.Popen[str]) -> None:
    """Wait for the leader of a session to end, and kill the session where it does not."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def terminate(sessions: Iterable[int]) -> None:
    """Ask the leaders of these sessions to end; nobody waits for them here."""
    for session in set(sessions):
        with contextlib.suppress(ProcessLookupError):
            os.kill(session, signal.SIGTERM)


def last_line(log: int) -> str:
    """The last that a process wrote to this file."""
    lines = os.pread(log, 1 << 20, 0).decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def memory_bytes(sessions: Sequence[int]) -> int:
    """What the processes of these sessions hold; a page that several share is counted once, in parts (proc(5), Pss)."""
    total = 0
    for process in PROC.glob("[0-9]*"):
        try:
            if _session(process) in sessions:
                rows = (process / "smaps_rollup").read_text().splitlines()
                total += sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))
        except OSError:
            # The process has ended since it was listed.
            continue
    return total


def _session(process: Path) -> int:
    # proc(5): state, parent, group and session follow the name in parentheses.
    return int((process / "stat").read_text().rpartition(")")[2].split()[3])
