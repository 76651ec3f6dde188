"""Logic that does no I/O: a generator that yields what it needs done, and is sent what came of it.

The same generators drive the blocking and the asynchronous detector; only who performs a step differs. A step that
fails raises inside the generator, where it was yielded.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """Something that keeps a core busy; it must not run where a loop waits for events."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GrpcCall:
    """A unary call of Triton's gRPC service; its answer is the serialised message, its failure an RpcStatusError."""

    method: str
    message: bytes = field(repr=False)
    timeout_s: float


class RpcStatusError(Exception):
    """A gRPC call that ended with another status than OK."""

    def __init__(self, code: str, details: str) -> None:
        """Keep the name of the status, as ``UNAVAILABLE``, and what came with it, on one line."""
        super().__init__(f"{code}: {details}")
        self.code = code
        self.details = details


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A request of Triton's HTTP protocol; its answer is an HttpReply, whatever its status."""

    method: str
    path: str
    timeout_s: float
    headers: Mapping[str, str] = field(default_factory=dict)
    body: tuple[bytes | memoryview, ...] = field(default=(), repr=False)
    """Sent one after the other, not joined."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """What a server answers."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = field(repr=False)


Step: TypeAlias = Work | Pause | GrpcCall | HttpCall
Steps: TypeAlias = Generator[Step, Any, T]
"""Steps on the way to a T."""
