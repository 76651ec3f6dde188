"""Triton's HTTP protocol with its binary tensors, on the standard library's HTTP client.

tritonclient's HTTP client may not be shared between threads, limits the time of each read instead of the whole call's,
and copies the pixels twice; here they go from the batch's own memory to the socket.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from clients.batches import Batch
from clients.contract import INPUT, OUTPUT
from clients.errors import ClientError, ContractError
from clients.transport import (
    SIDE_CALL_TIMEOUT_S,
    Address,
    ModelState,
    connection_closed,
    model_not_served,
    no_answer,
    no_inference,
    no_server,
    refused,
    wrong_protocol,
)

_HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header that tells the length of the JSON in front of the binary tensors."""


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    header_length: int | None
    body: bytes


def encode_request(batch: Batch) -> tuple[bytes, memoryview]:
    """A batch as the JSON and the binary part of a request's body."""
    images_BHWC = batch.images_BHWC
    tensor = {
        "name": INPUT,
        "shape": images_BHWC.shape,
        "datatype": "UINT8",
        "parameters": {"binary_data_size": images_BHWC.nbytes},
    }
    request = {"inputs": [tensor], "outputs": [{"name": OUTPUT, "parameters": {"binary_data": True}}]}
    return json.dumps(request).encode(), images_BHWC.data.cast("B")


def decode_response(body: bytes, header_length: int) -> NDArray[np.float32]:
    """The rows of an answer, float32 [B, N, 6]; raises ContractError for one without them."""
    outputs = json.loads(body[:header_length])["outputs"]
    if [(output["name"], output["datatype"]) for output in outputs] != [(OUTPUT, "FP32")]:
        got = ", ".join(f"{output['name']} {output['datatype']}" for output in outputs) or "nothing"
        raise ContractError(f"expected {OUTPUT} FP32 in the answer, got {got}: verify the model on the server")
    rows: NDArray[np.float32] = np.frombuffer(body[header_length:], np.float32).reshape(outputs[0]["shape"])
    return rows


class HttpTransport:
    """Keep-alive connections to one server, one for each request in flight; it may be shared between threads."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._closed = False

    def model_config(self, model: str, version: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration."""
        response = self._request("GET", f"{_model_path(model, version)}/config", timeout_s)
        if response.status != http.client.OK:
            raise self._error(response, model, version)
        if not response.body:
            raise no_inference(self._address)
        config: dict[str, Any] = self._json(response)
        return config

    def infer(self, batch: Batch, timeout_s: float) -> NDArray[np.float32]:
        """The answer to one batch, float32 [B, N, 6]."""
        model, version = batch.contract.model, batch.contract.version
        response = self._request("POST", f"{_model_path(model, version)}/infer", timeout_s, encode_request(batch))
        if response.status != http.client.OK:
            raise self._error(response, model, version)
        if response.header_length is None:
            raise no_server(self._address, "what answers is not Triton: no binary tensor")
        return decode_response(response.body, response.header_length)

    def close(self) -> None:
        """Close the idle connections now, and those in use when their call ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _request(
        self, method: str, path: str, timeout_s: float, body: tuple[bytes, memoryview] | None = None
    ) -> _Response:
        deadline = time.monotonic() + timeout_s
        with self._errors(timeout_s):
            while True:
                connection = self._borrow()
                was_idle = connection.sock is not None
                try:
                    response = _exchange(connection, method, path, deadline, body)
                except BaseException as error:
                    # Half a request or half an answer may be left in it.
                    connection.close()
                    if was_idle and isinstance(error, ConnectionError):
                        # The server closes connections that lie idle. The same request twice does no harm.
                        continue
                    raise
                self._give_back(connection)
                return response

    def _borrow(self) -> http.client.HTTPConnection:
        with self._lock:
            if self._closed:
                raise connection_closed(self._address)
            if self._idle:
                return self._idle.pop()
        return http.client.HTTPConnection(self._address.host, self._address.port)

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    @contextmanager
    def _errors(self, timeout_s: float) -> Iterator[None]:
        """Turn the standard library's exceptions into this package's."""
        try:
            yield
        except TimeoutError as error:
            raise no_answer(self._address, timeout_s) from error
        except OSError as error:
            raise no_server(self._address, error.strerror or error) from error
        except http.client.IncompleteRead as error:
            raise no_server(self._address, "it went away in the middle of an answer") from error
        except http.client.HTTPException as error:
            raise wrong_protocol(self._address, f"{type(error).__name__}: its answer is not HTTP") from error

    def _error(self, response: _Response, model: str, version: str) -> ClientError:
        """The error of an answer whose status is not 200."""
        message = self._json(response)
        text = message.get("error", "") if isinstance(message, dict) else ""
        if response.status == http.client.NOT_FOUND:
            return model_not_served(self._address, model, version, self._index())
        return refused(self._address, model, text or f"HTTP {response.status}")

    def _index(self) -> list[ModelState] | None:
        """What the server has; None where it does not tell."""
        try:
            response = self._request("POST", "/v2/repository/index", SIDE_CALL_TIMEOUT_S)
            entries = self._json(response)
        except ClientError:
            return None
        if response.status != http.client.OK:
            return None
        return [
            ModelState(entry["name"], entry.get("version", ""), entry.get("state", ""), entry.get("reason", ""))
            for entry in entries
        ]

    def _json(self, response: _Response) -> Any:
        try:
            return json.loads(response.body or b"{}")
        except ValueError as error:
            raise no_server(self._address, f"what answers is not Triton: HTTP {response.status}, not JSON") from error


def _model_path(model: str, version: str) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{version}" if version else path


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    deadline: float,
    body: tuple[bytes, memoryview] | None,
) -> _Response:
    """Send one request and read its answer; every step gets what is left of the time."""
    if connection.sock is None:
        connection.timeout = _remaining_s(deadline)
        connection.connect()
    connection.sock.settimeout(_remaining_s(deadline))
    if body is None:
        connection.request(method, path)
    else:
        header, tensor = body
        headers = {_HEADER_LENGTH: str(len(header)), "Content-Length": str(len(header) + len(tensor))}
        connection.request(method, path, iter((header, tensor)), headers)
    connection.sock.settimeout(_remaining_s(deadline))
    response = connection.getresponse()
    header_length = response.getheader(_HEADER_LENGTH)
    return _Response(response.status, None if header_length is None else int(header_length), response.read())


def _remaining_s(deadline: float) -> float:
    remaining_s = deadline - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    return remaining_s
