"""The connection to a Triton server: a dialect, which knows what to say, and a wire, which carries it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from clients.batches import Batch
from clients.encoded import EncodedRequest
from clients.errors import OptionsError
from clients.memory.control import MemoryControl
from clients.options import DEFAULT_OPTIONS, ConnectionOptions
from clients.wire.address import Address, address_from
from clients.wire.steps import GrpcCall, HttpCall, Pause, Steps, Work

T = TypeVar("T")


class CancelledByCallerError(Exception):
    """The caller has no use for the answer any more; it never leaves this package."""


class Cancellation:
    """Ends requests from another thread."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._stops: set[Callable[[], Any]] = set()
        self._stopped = False

    def refuse(self) -> None:
        """Refuse what follows; what is on its way may end."""
        self._event.set()

    def cancel(self) -> None:
        """End what is on its way, and refuse what follows."""
        with self._lock:
            self._event.set()
            self._stopped = True
            stops = list(self._stops)
        for stop in stops:
            stop()

    def check(self) -> None:
        """Raise CancelledByCallerError after ``refuse`` or ``cancel``."""
        if self._event.is_set():
            raise CancelledByCallerError

    def sleep(self, seconds: float) -> None:
        """Wait; raises CancelledByCallerError when ``refuse`` or ``cancel`` comes before the end."""
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def stopping_by(self, stop: Callable[[], Any]) -> Iterator[None]:
        """Have ``cancel`` call ``stop`` while the block runs."""
        with self._lock:
            self._stops.add(stop)
            # ``cancel`` may have looked just before the line above.
            stopped = self._stopped
        try:
            if stopped:
                stop()
                raise CancelledByCallerError
            yield
        finally:
            with self._lock:
                self._stops.discard(stop)


class Dialect(Protocol):
    """What to say to a server, and how to read it; raises the errors of ``clients.errors``."""

    address: Address

    def model_config(self, model: str, version: str, timeout_s: float) -> Steps[dict[str, Any]]:
        """The model's configuration, Triton's ModelConfig as a dictionary."""

    def infer(self, batch: Batch, timeout_s: float) -> Steps[NDArray[np.float32]]:
        """The answer to one batch, float32 [B, N, 6]."""

    def infer_encoded(self, request: EncodedRequest, timeout_s: float) -> Steps[NDArray[np.float32]]:
        """The answer to one encoded image, float32 [N, 6]."""

    def is_ready(self, model: str, version: str, timeout_s: float) -> Steps[bool]:
        """Whether the server would take a request for the model now."""

    def memory(self) -> MemoryControl:
        """How to share memory with the server."""


class Wire(Protocol):
    """Carries a dialect's calls, side by side for several threads."""

    def perform(self, call: Any, cancellation: Cancellation | None) -> Any:
        """Make one call and wait for its answer."""

    def close(self) -> None:
        """Close the connection; calls after this raise ServerUnavailableError."""


class AsyncWire(Protocol):
    """Carries a dialect's calls on an event loop, side by side for several tasks."""

    async def perform(self, call: Any) -> Any:
        """Make one call and wait for its answer."""

    async def close(self) -> None:
        """Close the connection; calls after this raise ServerUnavailableError."""


class Transport:
    """A connection that blocks; it may be shared between threads."""

    def __init__(self, dialect: Dialect, wire: Wire) -> None:
        self.dialect = dialect
        self._wire = wire

    @property
    def address(self) -> Address:
        """Where the server is."""
        return self.dialect.address

    def run(self, steps: Steps[T], cancellation: Cancellation | None = None) -> T:
        """Perform step after step; the generator's value."""
        result, failure = None, None
        try:
            while True:
                step = steps.send(result) if failure is None else steps.throw(failure)
                result, failure = None, None
                try:
                    match step:
                        case Work():
                            result = step.function()
                        case Pause():
                            time.sleep(step.seconds) if cancellation is None else cancellation.sleep(step.seconds)
                        case GrpcCall() | HttpCall():
                            result = self._wire.perform(step, cancellation)
                except BaseException as error:
                    failure = error
        except StopIteration as stop:
            value: T = stop.value
            return value

    def model_config(self, model: str, version: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration, Triton's ModelConfig as a dictionary."""
        return self.run(self.dialect.model_config(model, version, timeout_s))

    def infer(self, batch: Batch, timeout_s: float) -> NDArray[np.float32]:
        """The answer to one batch, float32 [B, N, 6]."""
        return self.run(self.dialect.infer(batch, timeout_s))

    def close(self) -> None:
        """Close the connection; calls after this raise ServerUnavailableError."""
        self._wire.close()


class AsyncTransport:
    """A connection on an event loop; it may be shared between tasks."""

    def __init__(self, dialect: Dialect, wire: AsyncWire) -> None:
        self.dialect = dialect
        self._wire = wire

    @property
    def address(self) -> Address:
        """Where the server is."""
        return self.dialect.address

    async def run(self, steps: Steps[T]) -> T:
        """Perform step after step; the generator's value."""
        result, failure = None, None
        try:
            while True:
                step = steps.send(result) if failure is None else steps.throw(failure)
                result, failure = None, None
                try:
                    match step:
                        case Work():
                            result = await asyncio.to_thread(step.function)
                        case Pause():
                            await asyncio.sleep(step.seconds)
                        case GrpcCall() | HttpCall():
                            result = await self._wire.perform(step)
                except BaseException as error:
                    failure = error
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def close(self) -> None:
        """Close the connection; calls after this raise ServerUnavailableError."""
        await self._wire.close()


def connect(url: str, options: ConnectionOptions = DEFAULT_OPTIONS) -> Transport:
    """A connection by the address's scheme; it is opened by its first call. Raises AddressError and OptionsError."""
    address = _checked(url, options)
    if address.is_grpc:
        from clients.wire.grpc_dialect import GrpcDialect
        from clients.wire.grpc_wire import GrpcWire

        return Transport(GrpcDialect(address), GrpcWire(address, options))
    from clients.wire.http_dialect import HttpDialect
    from clients.wire.http_wire import HttpWire

    return Transport(HttpDialect(address, options.compression), HttpWire(address, options))


def connect_async(url: str, options: ConnectionOptions = DEFAULT_OPTIONS) -> AsyncTransport:
    """The same on the running event loop."""
    address = _checked(url, options)
    if address.is_grpc:
        from clients.wire.grpc_dialect import GrpcDialect
        from clients.wire.grpc_wire import AsyncGrpcWire

        return AsyncTransport(GrpcDialect(address), AsyncGrpcWire(address, options))
    from clients.wire.http_aio import AsyncHttpWire
    from clients.wire.http_dialect import HttpDialect

    return AsyncTransport(HttpDialect(address, options.compression), AsyncHttpWire(address, options))


def _checked(url: str, options: ConnectionOptions) -> Address:
    address = address_from(url)
    if options.uses_tls and not address.has_tls:
        raise OptionsError(
            f"certificates are given, but {address} is not encrypted: use {address.scheme}s://{address.netloc}"
        )
    return address
