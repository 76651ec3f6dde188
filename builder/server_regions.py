"""The memory in /dev/shm that Triton's Python backend shares with its model processes, by the server whose it is.

A server that ends in order removes its own. One that is killed cannot, and where whoever started it is killed with it
(memory runs out, a service manager's last resort) nobody is left to: the next server to start does it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- Triton's Python backend has its regions there
_PREFIX = "yolo_triton_server"
_NAME = re.compile(rf"(?P<prefix>{_PREFIX}_\d+_(?P<namespace>\d+)_[0-9a-f]{{8}}_)[0-9a-f-]+")


def new_prefix() -> str:
    """What the names of one server's regions begin with, as those of no other do."""
    return f"{_PREFIX}_{os.getpid()}_{_namespace()}_{secrets.token_hex(4)}_"


def remove_regions(prefix: str) -> None:
    """Remove those of a server that has ended."""
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def remove_left_behind() -> None:
    """Remove those of this user's servers that were killed with whoever had started them."""
    found = {match["prefix"] for path in SHARED_MEMORY.glob(f"{_PREFIX}_*") if (match := _of_this_user_here(path))}
    if not found:
        return
    # After the regions: while one is there, either its server runs or nobody will remove it.
    commands = _command_lines()
    for prefix in found:
        if not any(prefix.encode() in command for command in commands):
            remove_regions(prefix)


def _of_this_user_here(path: Path) -> re.Match[str] | None:
    match = _NAME.fullmatch(path.name)
    # The processes of another container cannot be seen.
    if match and int(match["namespace"]) == _namespace():
        with contextlib.suppress(OSError):
            return match if path.stat().st_uid == os.getuid() else None
    return None


def _command_lines() -> list[bytes]:
    """Of all processes: tritonserver's names its prefix, a model process's its region."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes())
    return found


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
