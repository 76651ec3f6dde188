"""The connection to a Triton server: what a detector needs of one, chosen by the address's scheme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from clients.batches import Batch
from clients.errors import (
    AddressError,
    ClientError,
    DeadlineExceededError,
    InferenceError,
    ModelNotFoundError,
    ModelNotReadyError,
    ServerUnavailableError,
    one_line,
)

START_HINT = "start one with: python -m builder serve, or give the address of one that runs (url, --url)"
SIDE_CALL_TIMEOUT_S = 3.0
"""For the questions that only make an error's message better."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """host:port, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_from(url: str) -> Address:
    """Read ``grpc://host:port`` or ``http://host:port``; raises AddressError for anything else."""
    expected = f"expected grpc://HOST:PORT or http://HOST:PORT, got {url!r}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressError(f"{expected} ({error})") from error
    if "://" not in url:
        raise AddressError(f"{expected}: Triton listens for gRPC on 8001 and for HTTP on 8000 unless told otherwise")
    if parts.scheme not in {"grpc", "http"}:
        raise AddressError(f"{expected}: scheme {parts.scheme!r} is not one of them")
    if not parts.hostname or not port:
        raise AddressError(f"{expected}: the {'port' if parts.hostname else 'host'} is missing")
    if parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None:
        raise AddressError(f"{expected}: leave out what is not host and port")
    return Address(parts.scheme, parts.hostname, port)


@dataclass(frozen=True, slots=True)
class ModelState:
    """One version of one model in the server's repository index."""

    name: str
    version: str
    state: str
    """READY, UNAVAILABLE, LOADING or UNLOADING; empty when the server has not tried to load it."""
    reason: str


class Transport(Protocol):
    """A connection to a server, safe to share between threads; every method raises the errors of ``clients.errors``."""

    def model_config(self, model: str, version: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration, Triton's ModelConfig as a dictionary."""

    def infer(self, batch: Batch, timeout_s: float) -> NDArray[np.float32]:
        """The answer to one batch, float32 [B, N, 6]."""

    def close(self) -> None:
        """Close the connection; calls after this raise ServerUnavailableError."""


def connect(url: str) -> Transport:
    """A connection by the address's scheme; it is opened by its first call. Raises AddressError."""
    address = address_from(url)
    if address.scheme == "grpc":
        from clients.grpc_transport import GrpcTransport

        return GrpcTransport(address)
    from clients.http_transport import HttpTransport

    return HttpTransport(address)


def no_server(address: Address, reason: object) -> ServerUnavailableError:
    """Nothing answers at the address."""
    return ServerUnavailableError(f"no server at {address} ({one_line(reason)}): {START_HINT}")


def wrong_protocol(address: Address, reason: object) -> ServerUnavailableError:
    """Something answers at the address, but not in the scheme's protocol."""
    mine, other = ("gRPC", "HTTP") if address.scheme == "grpc" else ("HTTP", "gRPC")
    return ServerUnavailableError(
        f"the server at {address} does not speak {mine} ({one_line(reason)}): "
        f"if {address.port} is its {other} port, use {other.lower()}://{address.netloc}; its metrics port takes no "
        "requests"
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


def refused(address: Address, model: str, reason: object) -> InferenceError:
    """The server refused or failed the request."""
    return InferenceError(f"{address} refused the request for {model!r}: {one_line(reason)}")


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
