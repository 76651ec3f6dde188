"""HTTP on aiohttp, for an event loop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from clients.errors import ClientError
from clients.options import ConnectionOptions
from clients.wire.address import Address
from clients.wire.failures import connection_closed, no_answer, no_server, no_trust, wrong_protocol
from clients.wire.steps import HttpCall, HttpReply
from clients.wire.tls import tls_context, tls_reason


class AsyncHttpWire:
    """Keep-alive connections to one server on the running event loop."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        import aiohttp

        self._address = address
        reuse = aiohttp.TraceConfig()
        reuse.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            base_url=f"{'https' if address.has_tls else 'http'}://{address.netloc}",
            # No limit: the detector has its own.
            connector=aiohttp.TCPConnector(limit=0, ssl=tls_context(address, options) or True),
            headers=dict(options.headers),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "Content-Type"),
            trace_configs=[reuse],
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def perform(self, call: HttpCall) -> HttpReply:
        """The answer, whatever its status; raises ServerUnavailableError and DeadlineExceededError."""
        import aiohttp

        if self._session.closed:
            raise connection_closed(self._address)
        deadline = asyncio.get_running_loop().time() + call.timeout_s
        while True:
            tracing: dict[str, bool] = {}
            try:
                # The limit of the whole call, connecting and reading included.
                async with asyncio.timeout_at(deadline):
                    return await self._exchange(call, tracing)
            except (aiohttp.ServerDisconnectedError, ConnectionError) as error:
                if tracing.get("reused") and not isinstance(error, aiohttp.ClientConnectorError):
                    # The server closes connections that lie idle. The same request twice does no harm.
                    continue
                raise self._error(error, call.timeout_s) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise self._error(error, call.timeout_s) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def _exchange(self, call: HttpCall, tracing: dict[str, bool]) -> HttpReply:
        import aiohttp
        from yarl import URL

        headers = dict(call.headers)
        if call.body:
            headers["Content-Length"] = str(sum(len(part) for part in call.body))
        async with self._session.request(
            call.method,
            # Encoded already: a model's name may hold anything.
            URL(call.path, encoded=True),
            data=_parts(call.body) if call.body else None,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None),
            trace_request_ctx=tracing,
            allow_redirects=False,
        ) as response:
            names = {name.lower(): value for name, value in response.headers.items()}
            return HttpReply(response.status, names, await response.read())

    def _error(self, error: BaseException, timeout_s: float) -> ClientError:
        import aiohttp

        address = self._address
        made: ClientError
        match error:
            case TimeoutError():
                made = no_answer(address, timeout_s)
            case aiohttp.ClientConnectorCertificateError():
                made = no_trust(address, tls_reason(error.certificate_error))
            case aiohttp.ClientSSLError():
                made = no_trust(address, tls_reason(error.os_error))
            case aiohttp.ClientConnectorError() if address.has_tls and not error.os_error.errno:
                # A server without TLS hangs up on the first bytes of a handshake, for which the system has no number.
                made = no_trust(address, "the server broke off the handshake")
            case aiohttp.ClientConnectorError():
                made = no_server(address, error.os_error.strerror or error.os_error, not_accepted=True)
            case aiohttp.ClientPayloadError():
                made = no_server(address, "it went away in the middle of an answer")
            case aiohttp.ServerDisconnectedError():
                made = no_server(address, "it hung up")
            case aiohttp.ClientResponseError():
                made = wrong_protocol(address, f"{type(error).__name__}: its answer is not HTTP")
            case ssl.SSLError():
                made = no_trust(address, tls_reason(error))
            case _:
                made = no_server(address, getattr(error, "strerror", None) or error)
        return made


async def _note_reuse(_session: object, context: SimpleNamespace, _parameters: Any) -> None:
    context.trace_request_ctx["reused"] = True


async def _parts(parts: tuple[bytes | memoryview, ...]) -> AsyncIterator[bytes | memoryview]:
    for part in parts:
        yield part
