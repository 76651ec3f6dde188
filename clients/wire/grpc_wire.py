"""A gRPC channel, blocking or on an event loop; messages come and go as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clients.options import Compression, ConnectionOptions
from clients.wire.address import Address
from clients.wire.failures import connection_closed
from clients.wire.steps import GrpcCall, RpcStatusError
from clients.wire.tls import pem_files, tls_context
from clients.wire.transport import Cancellation, CancelledByCallerError

if TYPE_CHECKING:
    import grpc

# gRPC's default limit is 4 MB, and 32 images of 640x640 are 39 MB. By default, attempts to reach a server that has gone
# become as rare as one in two minutes; with these, a restarted server is found within two seconds.
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_SERVICE = "/inference.GRPCInferenceService"


class GrpcWire:
    """A channel; it may be shared between threads."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        import grpc

        self._address = address
        self._arguments = _call_arguments(options)
        credentials = _credentials(address, options)
        self._channel: Any = (
            grpc.secure_channel(address.netloc, credentials, options=_CHANNEL_OPTIONS)
            if credentials
            else grpc.insecure_channel(address.netloc, options=_CHANNEL_OPTIONS)
        )
        self._methods: dict[str, Any] = {}

    def perform(self, call: GrpcCall, cancellation: Cancellation | None) -> bytes:
        """The serialised answer; raises RpcStatusError, and ServerUnavailableError after ``close``."""
        import grpc

        try:
            method = self._methods.get(call.method)
            if method is None:
                method = self._methods[call.method] = self._channel.unary_unary(f"{_SERVICE}/{call.method}")
            if cancellation is None:
                answer: bytes = method(call.message, timeout=call.timeout_s, **self._arguments)
                return answer
            cancellation.check()
            future = method.future(call.message, timeout=call.timeout_s, **self._arguments)
            with cancellation.stopping_by(future.cancel):
                return bytes(future.result())
        except grpc.FutureCancelledError as error:
            raise CancelledByCallerError from error
        except grpc.RpcError as error:
            raise RpcStatusError(error.code().name, error.details() or "") from error
        except ValueError as error:
            # grpc's answer to a call on a closed channel.
            raise connection_closed(self._address) from error

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class AsyncGrpcWire:
    """A channel of the running event loop."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        import grpc.aio

        self._address = address
        self._arguments = _call_arguments(options)
        credentials = _credentials(address, options)
        self._channel: Any = (
            grpc.aio.secure_channel(address.netloc, credentials, options=_CHANNEL_OPTIONS)
            if credentials
            else grpc.aio.insecure_channel(address.netloc, options=_CHANNEL_OPTIONS)
        )
        self._methods: dict[str, Any] = {}

    async def perform(self, call: GrpcCall) -> bytes:
        """The serialised answer; raises RpcStatusError, and ServerUnavailableError after ``close``."""
        import grpc
        import grpc.aio

        try:
            method = self._methods.get(call.method)
            if method is None:
                method = self._methods[call.method] = self._channel.unary_unary(f"{_SERVICE}/{call.method}")
            answer: bytes = await method(call.message, timeout=call.timeout_s, **self._arguments)
        except grpc.RpcError as error:
            raise RpcStatusError(error.code().name, error.details() or "") from error
        except grpc.aio.UsageError as error:
            raise connection_closed(self._address) from error
        return answer

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


def _call_arguments(options: ConnectionOptions) -> dict[str, Any]:
    """What every call is made with."""
    import grpc

    # gRPC takes names in lower case alone.
    arguments: dict[str, Any] = {}
    if options.headers:
        arguments["metadata"] = tuple((name.lower(), value) for name, value in options.headers.items())
    if options.compression is not Compression.NONE:
        arguments["compression"] = {
            Compression.GZIP: grpc.Compression.Gzip,
            Compression.DEFLATE: grpc.Compression.Deflate,
        }[options.compression]
    return arguments


def _credentials(address: Address, options: ConnectionOptions) -> grpc.ChannelCredentials | None:
    """What the channel is encrypted with; None for an address without TLS."""
    if not address.has_tls:
        return None
    import grpc

    # gRPC takes whatever it is given, and fails later as if no server were there.
    tls_context(address, options)
    root, certificate, private_key = pem_files(options)
    return grpc.ssl_channel_credentials(root, private_key, certificate)
