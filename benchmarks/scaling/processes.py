"""Groups of workers that wait, each in a process of its own, until they are asked for steps."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from builder.errors import BuilderError, SpecError
from trainer.distribution import Devices


class Exchange(StrEnum):
    """What workers tell each other in a step."""

    NOTHING = "nothing"
    """Each with its own batch norm and loss."""
    STATISTICS = "statistics"
    """Batch norm and loss of the global batch; no gradients."""
    EVERYTHING = "everything"
    """As ``python -m trainer train``."""


class WorkerError(BuilderError):
    """A worker cannot go on; the message is its reason."""


class Workers:
    """``world`` processes that train together: ``with Workers(…) as workers: workers.ask("steps", …)``."""

    def __init__(self, spec: dict[str, Any], world: int, devices: Devices, folder: Path) -> None:
        """Start them, and wait until each has loaded its model and its batches.

        Raises:
            SpecError: what they are asked for is wrong.
            WorkerError: one cannot train.
        """
        self.world = world
        self._processes: list[subprocess.Popen[str]] = []
        self._logs: list[Any] = []
        try:
            for rank in range(world):
                own = folder / f"{world}-{rank}"
                own.mkdir()
                more = {
                    "rank": rank,
                    "world": world,
                    "kind": devices.kind,
                    "indexes": devices.indexes[:world],
                    "run": str(own),
                    "meeting": str(folder / f"meeting-{world}"),
                }
                self._start(spec | more)
            self.facts: dict[str, int] = self._answers()[0]
        except BaseException:
            self.close()
            raise

    def _start(self, spec: dict[str, Any]) -> None:
        log = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed with the workers
        self._logs.append(log)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(spec["threads"]),
            # Threads that spin while they wait would take the cores of the workers that are measured.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        # What torchrun sets, and what Ultralytics tells the processes of a training apart by.
        environment |= {"RANK": str(spec["rank"] if spec["world"] > 1 else -1), "LOCAL_RANK": str(spec["rank"])}
        environment |= {"WORLD_SIZE": str(spec["world"])}
        self._processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.scaling.worker", json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                # A session of its own is how its CPU time is told from others', and Ctrl-C is for its parent alone.
                start_new_session=True,
            )
        )

    def __enter__(self) -> Self:
        """They wait already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End them."""
        self.close()

    @property
    def sessions(self) -> list[int]:
        """The leaders of their sessions."""
        return [process.pid for process in self._processes]

    def ask(self, what: str, **arguments: Any) -> list[Any]:
        """What ``MeasuredTraining``'s method of that name gives in each worker; raises WorkerError."""
        for process in self._processes:
            assert process.stdin is not None, "it was started with a pipe"
            with contextlib.suppress(BrokenPipeError):
                print(json.dumps({"do": what, **arguments}), file=process.stdin, flush=True)
        return self._answers()

    def close(self) -> None:
        """End them at once: they keep nothing."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None, "it was started with a pipe"
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            process.wait()
        for log in self._logs:
            log.close()

    def _answers(self) -> list[Any]:
        """One of each worker, whichever is first: the others of one that has died may wait for it."""
        answers: dict[int, Any] = {}
        while len(answers) < self.world:
            waiting = [rank for rank in range(self.world) if rank not in answers]
            pipes = [process.stdout.fileno() for process in self._processes if process.stdout]
            ready = select.select([pipes[rank] for rank in waiting], [], [])[0]
            for rank in waiting:
                if pipes[rank] in ready:
                    answers[rank] = self._read(rank)
        return [answers[rank] for rank in range(self.world)]

    def _read(self, rank: int) -> Any:
        process = self._processes[rank]
        assert process.stdout is not None, "it was started with a pipe"
        line = process.stdout.readline()
        if not line:
            process.wait()
            log = os.pread(self._logs[rank].fileno(), 1 << 20, 0).decode(errors="replace").splitlines()
            said = next((each.strip() for each in reversed(log) if each.strip()), "it said nothing")
            raise WorkerError(f"worker {rank + 1} of {self.world} ended with {process.returncode}: {said}")
        answer = json.loads(line)
        if "error" in answer:
            raise (SpecError if answer["exit_code"] == SpecError.exit_code else WorkerError)(answer["error"])
        return answer["result"]
