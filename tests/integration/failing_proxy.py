"""A proxy that fails, to stand between a client and a store: it is no store, and hides none of its answers.

Of each kind of request the share that fails is chosen at random: an answer of 503, a connection that breaks in the
middle of the request or of the answer, a body with one changed byte.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FailingProxy:
    """Passes HTTP requests on to ``port`` of this machine."""

    port: int
    share: float
    seed: int = 0
    damages: bool = True
    """Whether a body may be changed on its way back."""
    requests: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    url: str = ""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def kind_of_failure(self, method: str) -> str | None:
        with self._lock:
            self.requests += 1
            if self._random.random() >= self.share:
                return None
            kinds = ["unavailable", "broken request", "broken answer"]
            kind = self._random.choice([*kinds, "damaged"] if method == "GET" and self.damages else kinds)
            self.failed[kind] = self.failed.get(kind, 0) + 1
            return kind

    @contextlib.contextmanager
    def running(self) -> Iterator[FailingProxy]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Nothing is printed."""

            def _pass_on(self) -> None:
                failure = proxy.kind_of_failure(self.command)
                self.close_connection = True
                if failure == "broken request":
                    self.rfile.read(min(int(self.headers.get("Content-Length", 0)), 100_000))
                    self.connection.close()
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if failure == "unavailable":
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                status, headers, answer = proxy.ask(self.command, self.path, dict(self.headers), body)
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                length = next((value for name, value in headers if name.lower() == "content-length"), str(len(answer)))
                self.send_header("Content-Length", length if self.command == "HEAD" else str(len(answer)))
                self.end_headers()
                if failure == "broken answer":
                    self.wfile.write(answer[: len(answer) // 2])
                    self.connection.close()
                    return
                if failure == "damaged" and answer:
                    middle = len(answer) // 2
                    answer = answer[:middle] + bytes([answer[middle] ^ 1]) + answer[middle + 1 :]
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        # A client that breaks off is what this is for.
        server.handle_error = lambda request, address: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()
