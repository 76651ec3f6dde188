"""The TCP ports on which a process listens, as the kernel knows them (proc(5))."""

from __future__ import annotations

import contextlib
from pathlib import Path

PROC = Path("/proc")
_LISTENS = "0A"  # TCP_LISTEN, net/tcp_states.h


def listening_ports(pid: int) -> set[int]:
    """The ports of a process of this network namespace; none where it has ended, or is another user's."""
    files = open_files(pid)
    return {port for socket, port in listening_sockets() if socket in files}


def open_files(pid: int) -> set[str]:
    """What a process has open, as /proc names it; none where it has ended, or is another user's."""
    found = set()
    with contextlib.suppress(OSError):
        for each in (PROC / str(pid) / "fd").iterdir():
            # It may be closed at any moment.
            with contextlib.suppress(OSError):
                found.add(str(each.readlink()))
    return found


def listening_sockets() -> list[tuple[str, int]]:
    """Each that listens in this network namespace, as in ``open_files``, and its port."""
    found = []
    # gRPC's sockets are IPv6, also those that listen on an IPv4 address.
    for name in ("tcp", "tcp6"):
        # A kernel without IPv6 has no tcp6.
        with contextlib.suppress(FileNotFoundError):
            for line in (PROC / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS:
                    found.append((f"socket:[{fields[9]}]", int(fields[1].rpartition(":")[2], 16)))
    return found
