"""Asking a Triton server to share memory, in both of its protocols: requests, and what their answers mean; no I/O.

A server that will not share says so in different ways: since release 26.04 it has to be started with
``--allow-client-shm=true`` ("Client shared memory is disabled."), and one on another machine, in a container with its
own /dev/shm, or of a user who may not read this one's files cannot open the region.
"""

from __future__ import annotations

import json
from typing import Any, Protocol
from urllib.parse import quote

from clients.errors import ClientError, one_line
from clients.memory.regions import MemoryKind, SharedMemoryUnavailableError, UnknownRegionError
from clients.wire.address import Address
from clients.wire.steps import GrpcCall, HttpCall, HttpReply, RpcStatusError, Steps

DISABLED = ("shared memory is disabled", "allow-client-shm")
"""In the answer of a server that has been told to share no memory."""
UNKNOWN_REGION = "Unable to find shared memory region"
"""In the answer to a request whose region the server does not know."""
_CANNOT_OPEN = "Unable to open shared memory region"
_RESTRICTED = "is restricted, expecting header"


class MemoryControl(Protocol):
    """A server that may share memory.

    All raise SharedMemoryUnavailableError, with the server's own words, where it refuses, and what every call to a
    server may raise where it cannot be asked.
    """

    def register_system(self, name: str, key: str, byte_size: int, timeout_s: float) -> Steps[None]:
        """Have the server map the whole file ``key`` of /dev/shm."""

    def register_cuda(self, name: str, handle: bytes, device: int, byte_size: int, timeout_s: float) -> Steps[None]:
        """Have the server map a GPU's memory; ``handle`` is a CUDA IPC handle in base64."""

    def unregister(self, kind: MemoryKind, name: str, timeout_s: float) -> Steps[None]:
        """Have the server unmap a region; it is no error that it has none of that name."""

    def registered(self, kind: MemoryKind, timeout_s: float) -> Steps[frozenset[str]]:
        """The names of all regions that the server has."""


class GrpcFailures(Protocol):
    """Makes the errors of calls that the server did not answer."""

    def failed(self, failure: RpcStatusError, timeout_s: float) -> Steps[ClientError]:
        """The error of a call that had so much time."""


class GrpcMemoryControl:
    """Over gRPC."""

    def __init__(self, failures: GrpcFailures) -> None:
        from tritonclient.grpc import service_pb2

        self._messages = service_pb2
        self._failures = failures

    def register_system(self, name: str, key: str, byte_size: int, timeout_s: float) -> Steps[None]:
        """Have the server map the whole file ``key`` of /dev/shm."""
        request = self._messages.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=byte_size)
        yield from self._call("SystemSharedMemoryRegister", request, timeout_s)

    def register_cuda(self, name: str, handle: bytes, device: int, byte_size: int, timeout_s: float) -> Steps[None]:
        """Have the server map a GPU's memory; ``handle`` is a CUDA IPC handle in base64."""
        import base64

        request = self._messages.CudaSharedMemoryRegisterRequest(
            name=name, raw_handle=base64.b64decode(handle), device_id=device, byte_size=byte_size
        )
        yield from self._call("CudaSharedMemoryRegister", request, timeout_s)

    def unregister(self, kind: MemoryKind, name: str, timeout_s: float) -> Steps[None]:
        """Have the server unmap a region; it is no error that it has none of that name."""
        method = f"{kind.capitalize()}SharedMemoryUnregister"
        yield from self._call(method, getattr(self._messages, f"{method}Request")(name=name), timeout_s)

    def registered(self, kind: MemoryKind, timeout_s: float) -> Steps[frozenset[str]]:
        """The names of all regions that the server has."""
        method = f"{kind.capitalize()}SharedMemoryStatus"
        answer = yield from self._call(method, getattr(self._messages, f"{method}Request")(), timeout_s)
        return frozenset(getattr(self._messages, f"{method}Response").FromString(answer).regions)

    def _call(self, method: str, request: Any, timeout_s: float) -> Steps[bytes]:
        try:
            answer: bytes = yield GrpcCall(method, request.SerializeToString(), timeout_s)
        except RpcStatusError as failure:
            if _is_refusal(failure):
                raise refusal(failure.details) from failure
            raise (yield from self._failures.failed(failure, timeout_s)) from failure
        return answer


class HttpMemoryControl:
    """Over HTTP."""

    def register_system(self, name: str, key: str, byte_size: int, timeout_s: float) -> Steps[None]:
        """Have the server map the whole file ``key`` of /dev/shm."""
        yield from self._register(MemoryKind.SYSTEM, name, {"key": key, "offset": 0, "byte_size": byte_size}, timeout_s)

    def register_cuda(self, name: str, handle: bytes, device: int, byte_size: int, timeout_s: float) -> Steps[None]:
        """Have the server map a GPU's memory; ``handle`` is a CUDA IPC handle in base64."""
        about = {"raw_handle": {"b64": handle.decode()}, "device_id": device, "byte_size": byte_size}
        yield from self._register(MemoryKind.CUDA, name, about, timeout_s)

    def unregister(self, kind: MemoryKind, name: str, timeout_s: float) -> Steps[None]:
        """Have the server unmap a region; it is no error that it has none of that name."""
        yield from self._call(HttpCall("POST", f"{_path(kind)}/region/{quote(name)}/unregister", timeout_s))

    def registered(self, kind: MemoryKind, timeout_s: float) -> Steps[frozenset[str]]:
        """The names of all regions that the server has."""
        reply = yield from self._call(HttpCall("GET", f"{_path(kind)}/status", timeout_s))
        return frozenset(region["name"] for region in json.loads(reply.body or b"[]"))

    def _register(self, kind: MemoryKind, name: str, about: dict[str, Any], timeout_s: float) -> Steps[None]:
        body = (json.dumps(about).encode(),)
        yield from self._call(HttpCall("POST", f"{_path(kind)}/region/{quote(name)}/register", timeout_s, body=body))

    def _call(self, call: HttpCall) -> Steps[HttpReply]:
        reply: HttpReply = yield call
        if reply.status != 200:
            raise refusal(_said(reply))
        return reply


def region_error(address: Address, words: str) -> ClientError | None:
    """What the answer to a request says of the memory that it names; None where it says something else."""
    if UNKNOWN_REGION in words:
        return UnknownRegionError(f"the server at {address} has forgotten the shared memory of this client ({words})")
    return refusal(words) if any(each in words for each in DISABLED) else None


def refusal(words: str) -> SharedMemoryUnavailableError:
    """Why the server shares no memory, and what would have it do so."""
    text = one_line(words)
    if any(each in text for each in DISABLED):
        hint = "start it with --allow-client-shm=true, which releases from 26.04 on ask for"
    elif _CANNOT_OPEN in text:
        hint = (
            "it runs on another machine, in a container with its own /dev/shm (docker run --ipc=host), or as another "
            "user than root or this one"
        )
    elif _RESTRICTED in text:
        hint = "give that header and its value in ConnectionOptions.headers"
    else:
        hint = "read its log"
    return SharedMemoryUnavailableError(f"the server shares no memory with this client ({text}): {hint}")


def _is_refusal(failure: RpcStatusError) -> bool:
    """Whether the server itself has answered; gRPC says UNAVAILABLE of its own where nothing does."""
    said_so = any(words in failure.details for words in (*DISABLED, _RESTRICTED))
    return said_so or failure.code not in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"}


def _path(kind: MemoryKind) -> str:
    return f"/v2/{kind}sharedmemory"


def _said(reply: HttpReply) -> str:
    try:
        return str(json.loads(reply.body)["error"])
    except (ValueError, TypeError, KeyError):
        return f"HTTP {reply.status}"
