"""The processes in which Triton's Python backend runs models, as the kernel knows them.

Triton (seen with 2.51) does not notice when one of them ends: it stays a zombie, the model stays READY, the health
checks stay good, and every request to it fails with "Stub process ... is not healthy".
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# The kernel keeps 15 characters of a process's name (TASK_COMM_LEN): triton_python_backend_stub
_NAME = "triton_python_b"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadProcess:
    """A model's process that has ended, and that tritonserver has left as it is."""

    pid: int
    model: str
    """``model NAME version N``, or ``a model`` where it ended before it was looked at."""
    signal_number: int
    """The signal that killed it; 0: none did."""
    exit_code: int

    def __str__(self) -> str:
        """Who ended, and how."""
        how = (
            f"was killed by {signal.Signals(self.signal_number).name}"
            if self.signal_number
            else f"ended with exit code {self.exit_code}"
        )
        return f"the process of {self.model} (pid {self.pid}) {how}"


class ModelProcesses:
    """The model processes of one tritonserver."""

    def __init__(self, server_pid: int) -> None:
        """Watch the children of that process, beginning with those that run now."""
        self._server_pid = server_pid
        # A zombie has no command line any more, so it is read while the process lives.
        self._models: dict[int, str] = {}
        self.dead()

    def dead(self) -> dict[int, DeadProcess]:
        """Those that have ended and were not collected, by process id."""
        found = {}
        for pid in self._children():
            # A process may be collected at any moment: then there is nothing to read, and nothing to say.
            with contextlib.suppress(OSError):
                name, state, status = _stat(pid)
                if name != _NAME:
                    continue
                if state == "Z":
                    model = self._models.get(pid, "a model")
                    found[pid] = DeadProcess(
                        pid=pid, model=model, signal_number=status & 0x7F, exit_code=status >> 8 & 0xFF
                    )
                elif pid not in self._models:
                    self._models[pid] = _model(pid)
        return found

    def _children(self) -> list[int]:
        children: list[int] = []
        # Each thread has its own list; a thread may end while they are read.
        for path in PROC.glob(f"{self._server_pid}/task/*/children"):
            with contextlib.suppress(OSError):
                children += map(int, path.read_text().split())
        return children


def _stat(pid: int) -> tuple[str, str, int]:
    """Name, state and wait status of a process (proc_pid_stat(5): fields 2, 3 and 52)."""
    start, _, rest = (PROC / str(pid) / "stat").read_text().rpartition(")")
    fields = rest.split()
    return start.partition("(")[2], fields[0], int(fields[49])


def _model(pid: int) -> str:
    """The model of a living process, from its command line: stub, <repository>/<model>/<version>/<file>, ..."""
    arguments = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    path = Path(arguments[1].decode(errors="replace")) if len(arguments) > 1 else Path()
    version, model = path.parent.name, path.parent.parent.name
    return f"model {model} version {version}" if model and version.isdecimal() else "a model"
