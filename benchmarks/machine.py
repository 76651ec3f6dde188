"""How much of the machine others used while something was measured, and on what and with what it was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

PROC = Path("/proc")
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
QUIET_SHARE = 0.05
"""What others may use of the CPU before a report says so."""
TOOLS = (
    "openvino",
    "tritonclient",
    "grpcio",
    "numpy",
    "onnx",
    "torch",
    "ultralytics",
    "ultralytics-opencv-headless",
    "opencv-python-headless",
    "pillow",
    "yolo-triton",
)


class OtherLoad:
    """The CPU time that neither this process, its children nor any of some sessions uses, from when this is made."""

    def __init__(self, *sessions: int) -> None:
        """Start to count; a session is named by its leader, such as a server."""
        self._sessions = frozenset(sessions)
        self._start = time.monotonic()
        self._busy_s, self._own_s = _busy_s(), self._read_own_s()

    def share(self) -> float:
        """CPU time of others / (seconds * cores), of the whole machine: 0 is a machine of one's own."""
        others_s = (_busy_s() - self._busy_s) - (self._read_own_s() - self._own_s)
        return max(0.0, others_s / (time.monotonic() - self._start) / (os.cpu_count() or 1))

    def _read_own_s(self) -> float:
        ticks = 0
        for path in PROC.glob("[0-9]*/stat"):
            try:
                text = path.read_text()
            except OSError:
                # The process has ended since it was listed.
                continue
            # proc(5): state, parent, group and session follow the name in parentheses; fields 14 and 15 are the times,
            # 16 and 17 those of children that have ended, as a program that makes the load has.
            fields = text.rpartition(")")[2].split()
            if int(path.parent.name) == os.getpid() or int(fields[3]) in self._sessions:
                # One that ends, as a model's process that is unloaded, leaves its time to its parent.
                ticks += sum(map(int, fields[11:15]))
        return ticks / CLOCK_TICKS_PER_S


def _busy_s() -> float:
    """CPU time of all cores that was neither idle nor waiting for a disk."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, (PROC / "stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / CLOCK_TICKS_PER_S


def other_load_text(share: float, when: str = "meanwhile") -> str:
    """For a report."""
    text = f"other processes used {share:.1%} of the CPU {when}"
    return text if share <= QUIET_SHARE else f"WARNING: {text}: measure again on a quiet machine"


def environment(argv: Sequence[str], **more: str) -> dict[str, str]:
    """The rows of a report's last table; ``more`` comes first."""
    rows = dict(more)
    rows["CPU"] = _cpu_model()
    rows["cores"] = str(len(os.sched_getaffinity(0)))
    rows["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    rows["system"] = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    for tool in TOOLS:
        try:
            rows[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            # Some of them are editions of one another.
            continue
    rows["command"] = shlex.join(["python", "-m", "benchmarks", *argv])
    return rows


def _cpu_model() -> str:
    try:
        lines = (PROC / "cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
