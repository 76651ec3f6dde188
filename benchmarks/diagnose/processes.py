"""The server's processes and its machine, as the kernel knows them (proc(5), cgroups(7))."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from pathlib import Path

from benchmarks.diagnose.evidence import Missing
from benchmarks.machine import CLOCK_TICKS_PER_S, PROC
from builder.listening import listening_sockets, open_files
from clients.wire.address import Address

CGROUPS = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- looked at, not written to
_REPOSITORY = re.compile(r"--model-(?:repository|store)(?:=|\0)([^\0]+)")


def find_server(address: Address) -> int | Missing:
    """The process that listens at an address of this machine."""
    if not _is_loopback(address.host):
        return Missing(
            f"the server is at {address.host}: run diagnose on its machine, with the address 127.0.0.1:{address.port}"
        )
    wanted = {socket for socket, port in listening_sockets() if port == address.port}
    for folder in PROC.glob("[0-9]*"):
        if not wanted.isdisjoint(open_files(int(folder.name))):
            return int(folder.name)
    return Missing(
        f"the process that listens on port {address.port} cannot be seen: it is another user's or in another "
        "container; run diagnose where it runs, as its user or as root"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ServerProcesses:
    """A server and every process that it has started, at the moment of each question."""

    def __init__(self, pid: int) -> None:
        """The server's own process."""
        self.pid = pid

    def pids(self) -> list[int]:
        """The server's first."""
        parents = {}
        for path in PROC.glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents[int(path.parent.name)] = int(_stat(path)[1])
        found = [self.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def memory_bytes(self) -> int:
        """What they hold; a page that several share counts once (smaps_rollup, Pss)."""
        total_kb = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
                total_kb += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total_kb * 1024

    def cpu_s(self) -> float:
        """The CPU time of all since they started."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = _stat(PROC / str(pid) / "stat")
                ticks += int(fields[11]) + int(fields[12])
        return ticks / CLOCK_TICKS_PER_S

    def scheduled_ns(self) -> tuple[int, int] | None:
        """What their threads ran and what they waited for a core; None where the kernel does not count it."""
        ran = waited = 0
        for pid in self.pids():
            for path in (PROC / str(pid)).glob("task/*/schedstat"):
                with contextlib.suppress(OSError):
                    fields = path.read_text().split()
                    ran, waited = ran + int(fields[0]), waited + int(fields[1])
        return (ran, waited) if ran else None

    def cpu_periods(self) -> tuple[int, int] | Missing:
        """Periods of the cgroup's CPU limit so far, and those in which it was reached."""
        folder = self._cgroup("cpu")
        if folder is None:
            return Missing("the server's cgroup cannot be read from here: look at its cpu.stat on the host")
        limit = (_text(folder / "cpu.max") or _text(folder / "cpu.cfs_quota_us")).split()
        stat = dict(line.split() for line in _text(folder / "cpu.stat").splitlines())
        if "nr_periods" not in stat or not limit or limit[0] in ("max", "-1"):
            return Missing("the server's own cgroup has no CPU limit that could throttle it")
        return int(stat["nr_periods"]), int(stat["nr_throttled"])

    def memory_limit_bytes(self) -> int:
        """The cgroup's limit, else the machine's memory."""
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        folder = self._cgroup("memory")
        limit = (_text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")).strip() if folder else ""
        return min(machine, int(limit)) if limit.isdecimal() else machine

    def model_bytes(self, versions: dict[str, list[str]]) -> int | Missing:
        """The files of these versions of these models, in the repositories that the server was started with."""
        command = _text(PROC / str(self.pid) / "cmdline")
        repositories = [self._seen(path) for path in _REPOSITORY.findall(command)]
        folders = [
            folder
            for repository in repositories
            for model, numbers in versions.items()
            for number in numbers
            if (folder := repository / model / number).is_dir()
        ]
        if not folders:
            return Missing("the server's repository cannot be read from here")
        return sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())

    def _seen(self, path: str) -> Path:
        """A path of the server's, which may be in a container of its own."""
        process = PROC / str(self.pid)
        return process / "root" / path.lstrip("/") if path.startswith("/") else process / "cwd" / path

    def _cgroup(self, controller: str) -> Path | None:
        """Where a controller's files are: version 2 has all in one folder, version 1 a hierarchy for each."""
        for line in _text(PROC / str(self.pid) / "cgroup").splitlines():
            number, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                folder = CGROUPS / controllers / path.lstrip("/")
            elif number == "0":
                folder = CGROUPS / path.lstrip("/")
            else:
                continue
            if any(folder.glob(f"{controller}.*")):
                return folder
        return None


def machine_ticks() -> tuple[int, int, int]:
    """Of all cores: idle, stolen, and all ticks."""
    fields = list(map(int, (PROC / "stat").read_text().splitlines()[0].split()[1:9]))
    return fields[3] + fields[4], fields[7], sum(fields)


def _stat(path: Path) -> list[str]:
    # proc(5): state, parent, group and session follow the name in parentheses; fields 14 and 15 are the times.
    return path.read_text().rpartition(")")[2].split()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
