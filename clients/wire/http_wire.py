"""HTTP on the standard library's client.

tritonclient's HTTP client may not be shared between threads, limits the time of each read instead of the whole call's,
and copies the pixels twice; here they go from the batch's own memory to the socket.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clients.options import ConnectionOptions
from clients.wire.address import Address
from clients.wire.failures import connection_closed, no_answer, no_server, no_trust, wrong_protocol
from clients.wire.steps import HttpCall, HttpReply
from clients.wire.tls import tls_context, tls_reason
from clients.wire.transport import Cancellation


class HttpWire:
    """Keep-alive connections to one server, one for each request in flight; it may be shared between threads."""

    def __init__(self, address: Address, options: ConnectionOptions) -> None:
        self._address = address
        self._headers = dict(options.headers)
        self._tls = tls_context(address, options)
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._closed = False

    def perform(self, call: HttpCall, cancellation: Cancellation | None) -> HttpReply:
        """The answer, whatever its status; raises ServerUnavailableError and DeadlineExceededError."""
        deadline = time.monotonic() + call.timeout_s
        with self._errors(call.timeout_s):
            while True:
                if cancellation is not None:
                    cancellation.check()
                connection = self._borrow()
                was_idle = connection.sock is not None
                try:
                    if not was_idle:
                        self._open(connection, deadline)
                    with _stoppable(connection, cancellation):
                        reply = self._exchange(connection, call, deadline)
                except BaseException as error:
                    # Half a request or half an answer may be left in it.
                    connection.close()
                    if cancellation is not None:
                        cancellation.check()
                    if was_idle and isinstance(error, ConnectionError):
                        # The server closes connections that lie idle. The same request twice does no harm.
                        continue
                    raise
                self._give_back(connection)
                return reply

    def close(self) -> None:
        """Close the idle connections now, and those in use when their call ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _borrow(self) -> http.client.HTTPConnection:
        with self._lock:
            if self._closed:
                raise connection_closed(self._address)
            if self._idle:
                return self._idle.pop()
        if self._tls is not None:
            return http.client.HTTPSConnection(self._address.host, self._address.port, context=self._tls)
        return http.client.HTTPConnection(self._address.host, self._address.port)

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _open(self, connection: http.client.HTTPConnection, deadline: float) -> None:
        connection.timeout = _remaining_s(deadline)
        try:
            connection.connect()
        except (TimeoutError, ssl.SSLError):
            raise
        except OSError as error:
            raise no_server(self._address, error.strerror or error, not_accepted=True) from error

    def _exchange(self, connection: http.client.HTTPConnection, call: HttpCall, deadline: float) -> HttpReply:
        """Send one request and read its answer; every step gets what is left of the time."""
        connection.sock.settimeout(_remaining_s(deadline))
        headers = {**self._headers, **call.headers}
        if call.body:
            headers["Content-Length"] = str(sum(len(part) for part in call.body))
            connection.request(call.method, call.path, iter(call.body), headers)
        else:
            connection.request(call.method, call.path, headers=headers)
        connection.sock.settimeout(_remaining_s(deadline))
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return HttpReply(response.status, names, response.read())

    @contextmanager
    def _errors(self, timeout_s: float) -> Iterator[None]:
        """Turn the standard library's exceptions into this package's."""
        try:
            yield
        except TimeoutError as error:
            raise no_answer(self._address, timeout_s) from error
        except ssl.SSLError as error:
            raise no_trust(self._address, tls_reason(error)) from error
        except OSError as error:
            raise no_server(self._address, error.strerror or error) from error
        except http.client.IncompleteRead as error:
            raise no_server(self._address, "it went away in the middle of an answer") from error
        except http.client.HTTPException as error:
            raise wrong_protocol(self._address, f"{type(error).__name__}: its answer is not HTTP") from error


@contextmanager
def _stoppable(connection: http.client.HTTPConnection, cancellation: Cancellation | None) -> Iterator[None]:
    if cancellation is None:
        yield
        return
    sock = connection.sock

    def stop() -> None:
        # The thread that reads wakes up; a socket that is gone already is what was wanted.
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    with cancellation.stopping_by(stop):
        yield


def _remaining_s(deadline: float) -> float:
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    return remaining_s
