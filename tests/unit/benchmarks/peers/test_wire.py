"""The relay that counts, between real sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from benchmarks.peers.wire import CountingRelay


@pytest.fixture
def doubling_server() -> Iterator[int]:
    """The port of a server that answers everything twice."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while chunk := connection.recv(1 << 16):
                connection.sendall(chunk * 2)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def received(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        chunk = connection.recv(1 << 16)
        assert chunk
        content += chunk
    return content


@pytest.mark.parametrize("length", [1, 3_000_000])
def test_bytes_are_handed_on_and_counted_in_both_directions(doubling_server: int, length: int) -> None:
    sent = bytes(number % 251 for number in range(length))
    with (
        CountingRelay(doubling_server) as relay,
        socket.create_connection(("127.0.0.1", relay.port), timeout=30) as client,
    ):
        threading.Thread(target=client.sendall, args=(sent,)).start()
        answer = received(client, 2 * length)
        assert len(answer) == 2 * length
        assert sorted(set(answer)) == sorted(set(sent))
        assert relay.counts() == (length, 2 * length)


def test_several_connections_are_counted_together(doubling_server: int) -> None:
    with CountingRelay(doubling_server) as relay:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", relay.port), timeout=30) as client:
                client.sendall(b"12345")
                assert received(client, 10) == b"1234512345"
        assert relay.counts() == (15, 30)


def test_the_end_of_one_side_is_the_end_of_the_other(doubling_server: int) -> None:
    with CountingRelay(doubling_server) as relay:
        client = socket.create_connection(("127.0.0.1", relay.port), timeout=30)
        client.sendall(b"1")
        received(client, 2)
    # The relay is closed, and so is what went through it.
    assert client.recv(1) == b""
    client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", relay.port), timeout=30)
