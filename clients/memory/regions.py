"""Regions of system shared memory that a Triton server on the same machine maps.

A region's file in /dev/shm is there only while the server maps it, a millisecond: then it is unlinked, and the memory
goes with the last of the two that have it mapped. So whatever ends a client, kill -9 included, no segment stays behind;
what stays is a name that the server knows, which :func:`is_left_behind` tells from those of living clients.

Files are made by hand, not by ``multiprocessing.shared_memory``: that one starts a process to watch over them, and
leaves the memory to be found missing by SIGBUS when /dev/shm is full, where ``posix_fallocate`` gives an error.
"""

from __future__ import annotations

import contextlib
import enum
import mmap
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from clients.errors import ClientError, ServerUnavailableError
from clients.wire.steps import Steps

if TYPE_CHECKING:
    from clients.memory.control import MemoryControl

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- where shm_open has its files (shm_overview(7))
_PREFIX = "yolo_triton_client"
_NAME = re.compile(_PREFIX + r"_(?P<pid>\d+)_(?P<started>\d+)_(?P<namespace>\d+)_[0-9a-f]{16}")
_ALIGNMENT = 64
"""Of the output in a region: a cache line."""
_ENDED_STATES = frozenset("ZX")
"""Of a process that has given its memory back, and is only still to be waited for (proc(5))."""


class MemoryKind(enum.StrEnum):
    """Where shared memory lies, as Triton's protocols spell it."""

    SYSTEM = "system"
    CUDA = "cuda"


class SharedMemoryUnavailableError(ClientError):
    """The server does not take shared memory from this client, or this machine has none to give."""


class UnknownRegionError(ServerUnavailableError):
    """The server does not know the region that a request names: it has been restarted since."""

    not_accepted = True


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in a region that the server knows."""

    region: str
    offset: int
    byte_size: int


class Region(Protocol):
    """Shared memory for one request at a time: its input, and behind it its output."""

    name: str
    """As the server knows it."""
    kind: MemoryKind
    input: NDArray[np.uint8]
    """uint8 [bytes], to be written before :meth:`send`."""

    def register(self, control: MemoryControl, timeout_s: float) -> Steps[None]:
        """Have the server map it."""

    def input_place(self, byte_size: int) -> Place:
        """Where the server finds the first bytes of the input."""

    def output_place(self, byte_size: int) -> Place:
        """Where the server is to put an output."""

    def send(self, byte_size: int) -> Steps[None]:
        """Bring so much of the input to where the server reads it."""

    def receive(self, byte_size: int) -> NDArray[np.uint8]:
        """A copy of the output's first bytes."""

    def close(self) -> None:
        """Give the memory back on this side; what the server has mapped, it keeps until it is told otherwise."""


class SystemRegion:
    """A region of the machine's memory, reserved when it is made: writing to it cannot fail."""

    kind = MemoryKind.SYSTEM

    def __init__(self, input_bytes: int, output_bytes: int) -> None:
        """Reserve the memory; raises OSError where /dev/shm is missing, closed to this user, or full."""
        self.name = new_name()
        self._path = SHARED_MEMORY / self.name
        self._output_offset = -(-input_bytes // _ALIGNMENT) * _ALIGNMENT
        self._byte_size = self._output_offset + output_bytes
        try:
            self._map = _reserve(self._path, self._byte_size)
        except BaseException:
            self._unlink()
            raise
        self.input: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8, input_bytes)
        self._output: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8, output_bytes, self._output_offset)

    def register(self, control: MemoryControl, timeout_s: float) -> Steps[None]:
        """Have the server map it; its file is gone when this returns or raises."""
        try:
            yield from control.register_system(self.name, f"/{self.name}", self._byte_size, timeout_s)
        finally:
            self._unlink()

    def input_place(self, byte_size: int) -> Place:
        """The input begins the region."""
        return Place(self.name, 0, byte_size)

    def output_place(self, byte_size: int) -> Place:
        """The output follows the whole input."""
        return Place(self.name, self._output_offset, byte_size)

    def send(self, byte_size: int) -> Steps[None]:
        """Nothing: the server reads the very memory that was written."""
        yield from ()

    def receive(self, byte_size: int) -> NDArray[np.uint8]:
        """A copy of the output's first bytes."""
        return self._output[:byte_size].copy()

    def close(self) -> None:
        """Give the memory back, at the latest when the last array that shows it has gone."""
        self._unlink()
        del self.input, self._output
        with contextlib.suppress(BufferError):
            self._map.close()

    def _unlink(self) -> None:
        self._path.unlink(missing_ok=True)


def _reserve(path: Path, byte_size: int) -> mmap.mmap:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, byte_size)
        return mmap.mmap(descriptor, byte_size)
    finally:
        os.close(descriptor)


def new_name() -> str:
    """A name that no other region has, and that says whose it is."""
    pid = os.getpid()
    return f"{_PREFIX}_{pid}_{_started(pid) or 0}_{_namespace()}_{secrets.token_hex(8)}"


def is_left_behind(name: str) -> bool:
    """Whether the client that made the region of this name has ended; False where that cannot be known."""
    match = _NAME.fullmatch(name)
    # Numbers of processes mean nothing in another container.
    if not match or int(match["namespace"]) != _namespace():
        return False
    try:
        return _started(int(match["pid"])) != int(match["started"])
    except OSError:
        return False


def unlink_left_behind() -> None:
    """Remove what clients of the same user left in /dev/shm when they were killed while the server mapped it."""
    for path in SHARED_MEMORY.glob(f"{_PREFIX}_*"):
        with contextlib.suppress(OSError):
            if is_left_behind(path.name) and path.stat().st_uid == os.getuid():
                path.unlink()


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None for one that has ended. Raises OSError."""
    try:
        text = Path("/proc", str(pid), "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is a file's name in brackets, which may hold anything (proc(5)).
    state, *fields = text.rpartition(")")[2].split()
    return None if state in _ENDED_STATES else int(fields[18])


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
