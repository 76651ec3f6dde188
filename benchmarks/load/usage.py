"""What a server's processes and its GPUs use of the machine."""

from __future__ import annotations

import contextlib
from pathlib import Path

from benchmarks.machine import CLOCK_TICKS_PER_S, PROC


class ServerProcesses:
    """The processes of a server's session: tritonserver itself and those of its Python models."""

    def __init__(self, server_pid: int) -> None:
        """Find them; the server is the leader of its session, as ``builder.server`` starts it."""
        self._folders = tuple(path.parent for path in PROC.glob("[0-9]*/stat") if _session(path) == server_pid)

    def cpu_s(self) -> float:
        """The CPU time of all since they started."""
        ticks = 0
        for folder in self._folders:
            # One that has ended counts no more.
            with contextlib.suppress(OSError):
                fields = _stat(folder / "stat")
                ticks += int(fields[11]) + int(fields[12])
        return ticks / CLOCK_TICKS_PER_S

    def memory_bytes(self) -> int:
        """What all hold now; a page that several share counts once (proc(5), smaps_rollup, Pss)."""
        total_kb = 0
        for folder in self._folders:
            with contextlib.suppress(OSError):
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total_kb += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total_kb * 1024


def _session(path: Path) -> int | None:
    try:
        return int(_stat(path)[3])
    except OSError:
        # The process has ended since it was listed.
        return None


def _stat(path: Path) -> list[str]:
    # proc(5): state, parent, group and session follow the name in parentheses; fields 14 and 15 are the times.
    return path.read_text().rpartition(")")[2].split()
