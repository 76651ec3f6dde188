"""Bytes on the wire: a relay between client and server that counts what passes, TLS and framing included."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 16


class CountingRelay:
    """Listens on a port of the loopback, and hands everything on to another: ``with CountingRelay(port) as relay``."""

    def __init__(self, port: int) -> None:
        """Listen; ``port`` is where the server is."""
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._sent_bytes = self._received_bytes = 0
        self._sockets: list[socket.socket] = []
        self._closing = False

    def __enter__(self) -> Self:
        """Begin to hand on."""
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every connection."""
        with self._lock:
            self._closing = True
            # accept() wakes for a shutdown, not for a close.
            sockets = [self._listener, *self._sockets]
        for each in sockets:
            _end(each)
            each.close()

    def counts(self) -> tuple[int, int]:
        """Bytes from clients and bytes to them, so far."""
        with self._lock:
            return self._sent_bytes, self._received_bytes

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets += [client, server]
                if self._closing:
                    _end(client)
                    _end(server)
            for source, sink, is_sent in ((client, server, True), (server, client, False)):
                # Small writes go on at once, as they came.
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass, args=(source, sink, is_sent), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_sent: bool) -> None:
        try:
            while chunk := source.recv(CHUNK_BYTES):
                with self._lock:
                    if is_sent:
                        self._sent_bytes += len(chunk)
                    else:
                        self._received_bytes += len(chunk)
                sink.sendall(chunk)
        except OSError:
            # One side is gone, which is the other's end too.
            pass
        _end(sink)


def _end(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It had ended already.
        return
