"""The errors of a connection, made of what came: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clients.errors import (
    AccessDeniedError,
    ClientError,
    DeadlineExceededError,
    InferenceError,
    ModelNotFoundError,
    ModelNotReadyError,
    QueueFullError,
    ServerUnavailableError,
    TlsError,
    one_line,
)
from clients.wire.address import Address

START_HINT = "start one with: python -m builder serve, or give the address of one that runs (url, --url)"

# What tritonserver says (core's scheduler, its server and its front ends, 2.51 to 2.73).
_QUEUE_FULL = "Exceeds maximum queue size"
_QUEUE_TIMEOUT = "Request timeout expired"
_NO_ID = "[request id: <id_unknown>] "
_RESTRICTED = "is restricted, expecting header"
_NOT_SERVING = ("Server not ready", "Server is stopping", "Server exiting")


@dataclass(frozen=True, slots=True)
class ModelState:
    """One version of one model in the server's repository index."""

    name: str
    version: str
    state: str
    """READY, UNAVAILABLE, LOADING or UNLOADING; empty when the server has not tried to load it."""
    reason: str


def no_server(address: Address, reason: object, *, not_accepted: bool = False) -> ServerUnavailableError:
    """Nothing answers at the address; ``not_accepted`` where nothing of the request can have reached a server."""
    error = ServerUnavailableError(f"no server at {address} ({one_line(reason)}): {START_HINT}")
    error.not_accepted = not_accepted
    return error


def wrong_protocol(address: Address, reason: object) -> ServerUnavailableError:
    """Something answers at the address, but not in the scheme's protocol."""
    mine, other = ("gRPC", "HTTP") if address.is_grpc else ("HTTP", "gRPC")
    secure = "" if address.has_tls else f"if it wants TLS, use {address.scheme}s://; "
    scheme = other.lower() + ("s" if address.has_tls else "")
    return ServerUnavailableError(
        f"the server at {address} does not speak {mine} ({one_line(reason)}): "
        f"if {address.port} is its {other} port, use {scheme}://{address.netloc}; {secure}its metrics port takes no "
        "requests"
    )


def no_trust(address: Address, reason: object) -> TlsError:
    """The two sides could not agree on an encrypted connection."""
    plain = address.scheme.removesuffix("s")
    return TlsError(
        f"no trusted connection to {address} ({one_line(reason)}): check root_certificates (--ca) against the "
        "server's certificate and the name in the address, certificate and private_key (--cert, --key) where the "
        f"server asks for one, or use {plain}:// where the server has no TLS"
    )


def no_inference(address: Address) -> ServerUnavailableError:
    """Something answers at the address in the scheme's protocol, and says nothing."""
    # Triton's metrics port answers so to whatever is asked.
    return ServerUnavailableError(
        f"the server at {address} answers with nothing: if {address.port} is Triton's metrics port (8002), give its "
        "HTTP port (8000) or its gRPC port (8001)"
    )


def no_answer(address: Address, timeout_s: float) -> DeadlineExceededError:
    """The time is over."""
    return DeadlineExceededError(
        f"no answer from {address} within {timeout_s:g} s: no Triton server listens there, or it is too busy; check "
        "the address, or allow each request more time (timeout_s, --timeout)"
    )


def connection_closed(address: Address) -> ServerUnavailableError:
    """This side has closed the connection."""
    return ServerUnavailableError(f"the connection to {address} has been closed by close(): make a new Detector")


def refused(address: Address, model: str, reason: object) -> ClientError:
    """The server refused or failed the request: the error by what it says."""
    text = one_line(reason).removeprefix(_NO_ID)
    error: ClientError
    if _RESTRICTED in text:
        return AccessDeniedError(
            f"{address} denied the request for {model!r} ({text}): give that header and its value in "
            "ConnectionOptions.headers"
        )
    if any(words in text for words in _NOT_SERVING):
        error = ServerUnavailableError(f"the server at {address} starts or stops ({text}): try again later")
        error.not_accepted = True
    elif _QUEUE_FULL in text:
        error = QueueFullError(
            f"{address} has no room in the queue of {model!r} ({text}): send fewer requests at a time, or serve more "
            "instances"
        )
        error.not_accepted = True
    elif _QUEUE_TIMEOUT in text:
        error = QueueFullError(
            f"{address} left the request for {model!r} in its queue for too long ({text}): send fewer requests at a "
            "time, or serve more instances"
        )
    else:
        error = InferenceError(f"{address} refused the request for {model!r}: {text}")
    return error


def model_not_served(address: Address, model: str, version: str, index: Sequence[ModelState] | None) -> ClientError:
    """Why a server that answers "not found" has no such model: unknown, or known and not loaded.

    ``index`` is None where the server does not tell what it has.
    """
    if index is None:
        return ModelNotFoundError(f"no model {model!r}{f' version {version}' if version else ''} at {address}")
    versions = [entry for entry in index if entry.name == model]
    wanted = [entry for entry in versions if version in {"", entry.version}]
    if not versions:
        names = ", ".join(sorted({entry.name for entry in index})) or "no model at all"
        return ModelNotFoundError(f"no model {model!r} at {address}, which has: {names}")
    if not wanted:
        has = ", ".join(sorted(entry.version for entry in versions))
        return ModelNotFoundError(f"model {model!r} at {address} has no version {version}, it has: {has}")
    states = "; ".join(
        f"{f'version {entry.version} ' if entry.version else ''}{entry.state or 'NOT LOADED'}"
        + (f" ({one_line(entry.reason)})" if entry.reason else "")
        for entry in wanted
    )
    return ModelNotReadyError(f"model {model!r} at {address} is not ready: {states}; load it, or read the server's log")
