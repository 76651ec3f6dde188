"""Triton's HTTP protocol with its binary tensors, without a connection: requests, answers, and what statuses mean."""

from __future__ import annotations

import http.client
import json
import zlib
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from clients.batches import Batch
from clients.contract import INPUT, OUTPUT
from clients.encoded import EncodedRequest, http_body, rows_from_http
from clients.errors import AccessDeniedError, ClientError, ContractError, ServerUnavailableError
from clients.memory.control import HttpMemoryControl, MemoryControl, region_error
from clients.memory.regions import Place
from clients.memory.ring import Slot
from clients.options import Compression
from clients.wire.address import Address
from clients.wire.failures import ModelState, model_not_served, no_inference, no_server, refused
from clients.wire.steps import HttpCall, HttpReply, Steps, Work

SIDE_CALL_TIMEOUT_S = 3.0
"""For the questions that only make an error's message better."""
_HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header that tells the length of the JSON in front of the binary tensors."""
_FASTEST = 1
_WINDOW_BITS = {Compression.GZIP: 16 + zlib.MAX_WBITS, Compression.DEFLATE: zlib.MAX_WBITS}


def encode_request(batch: Batch) -> tuple[bytes, memoryview]:
    """A batch as the JSON and the binary part of a request's body."""
    images_BHWC = batch.images_BHWC
    tensor = {
        "name": INPUT,
        "shape": images_BHWC.shape,
        "datatype": "UINT8",
        "parameters": {"binary_data_size": images_BHWC.nbytes},
    }
    request: dict[str, Any] = {"inputs": [tensor], "outputs": [{"name": OUTPUT, "parameters": {"binary_data": True}}]}
    if batch.priority:
        request["parameters"] = {"priority": batch.priority}
    return json.dumps(request).encode(), images_BHWC.data.cast("B")


def encode_shared_request(batch: Batch, slot: Slot) -> bytes:
    """A batch whose images and rows are in shared memory as the whole body of a request."""
    count = len(batch.images_BHWC)
    images: dict[str, Any] = {"name": INPUT, "shape": batch.images_BHWC.shape, "datatype": "UINT8"}
    request: dict[str, Any] = {
        "inputs": [images | {"parameters": _parameters(slot.images_place(count))}],
        "outputs": [{"name": OUTPUT, "parameters": _parameters(slot.rows_place(count))}],
    }
    if batch.priority:
        request["parameters"] = {"priority": batch.priority}
    return json.dumps(request).encode()


def _parameters(place: Place) -> dict[str, Any]:
    return {
        "shared_memory_region": place.region,
        "shared_memory_offset": place.offset,
        "shared_memory_byte_size": place.byte_size,
    }


def check_shared_response(outputs: Any, batch: Batch) -> None:
    """Raise ContractError for outputs whose rows, which are in shared memory, are not those of the batch."""
    expected = [(OUTPUT, "FP32", [len(batch.images_BHWC), batch.contract.max_detections, 6])]
    if (got := [(each.get("name"), each.get("datatype"), each.get("shape")) for each in outputs]) != expected:
        raise ContractError(f"expected {expected} in the answer, got {got}: verify the model on the server")


def decode_response(body: bytes, header_length: int) -> NDArray[np.float32]:
    """The rows of an answer, float32 [B, N, 6]; raises ContractError for one without them."""
    outputs = json.loads(body[:header_length])["outputs"]
    if [(output["name"], output["datatype"]) for output in outputs] != [(OUTPUT, "FP32")]:
        got = ", ".join(f"{output['name']} {output['datatype']}" for output in outputs) or "nothing"
        raise ContractError(f"expected {OUTPUT} FP32 in the answer, got {got}: verify the model on the server")
    rows: NDArray[np.float32] = np.frombuffer(body[header_length:], np.float32).reshape(outputs[0]["shape"])
    return rows


class HttpDialect:
    """How to ask a Triton server over HTTP."""

    def __init__(self, address: Address, compression: Compression = Compression.NONE) -> None:
        self.address = address
        self._compression = compression

    def model_config(self, model: str, version: str, timeout_s: float) -> Steps[dict[str, Any]]:
        """The model's configuration."""
        reply = yield HttpCall("GET", f"{_model_path(model, version)}/config", timeout_s)
        if reply.status != http.client.OK:
            raise (yield from self._error(reply, model, version))
        if not reply.body:
            raise no_inference(self.address)
        config: dict[str, Any] = self._json(reply)
        return config

    def infer(self, batch: Batch, timeout_s: float) -> Steps[NDArray[np.float32]]:
        """The answer to one batch, float32 [B, N, 6]."""
        model, version = batch.contract.model, batch.contract.version
        if batch.slot is not None:
            reply = yield from self._post(model, version, (encode_shared_request(batch, batch.slot),), timeout_s)
            check_shared_response(self._json(reply).get("outputs", []), batch)
            return batch.slot.receive(len(batch.images_BHWC))
        return decode_response(*(yield from self._infer(model, version, encode_request(batch), timeout_s)))

    def infer_encoded(self, request: EncodedRequest, timeout_s: float) -> Steps[NDArray[np.float32]]:
        """The answer to one encoded image, float32 [N, 6]."""
        return rows_from_http(*(yield from self._infer(request.contract.model, "", http_body(request), timeout_s)))

    def _infer(
        self, model: str, version: str, body: tuple[bytes | memoryview, ...], timeout_s: float
    ) -> Steps[tuple[bytes, int]]:
        """The body of the answer, and the length of the JSON that it begins with."""
        reply = yield from self._post(model, version, body, timeout_s)
        content = self._content(reply)
        header_length = reply.headers.get(_HEADER_LENGTH.lower(), "")
        if header_length.isdecimal():
            return content, int(header_length)
        # Where no tensor has an element, nothing follows the JSON, and Triton leaves the header out (2.51).
        message = self._json(reply)
        if not isinstance(message, dict) or "outputs" not in message:
            raise no_server(self.address, "what answers is not Triton: no binary tensor")
        return content, len(content)

    def _post(
        self, model: str, version: str, body: tuple[bytes | memoryview, ...], timeout_s: float
    ) -> Steps[HttpReply]:
        """The answer to a request for inference, which is no error."""
        headers = {_HEADER_LENGTH: str(len(body[0]))}
        if self._compression is not Compression.NONE:
            body = yield Work(lambda: (_compressed(body, self._compression),))
            headers |= {"Content-Encoding": self._compression.value, "Accept-Encoding": self._compression.value}
        reply: HttpReply = yield HttpCall("POST", f"{_model_path(model, version)}/infer", timeout_s, headers, body)
        if reply.status != http.client.OK:
            raise (yield from self._error(reply, model, version))
        return reply

    def is_ready(self, model: str, version: str, timeout_s: float) -> Steps[bool]:
        """Whether the server would take a request for the model now."""
        reply = yield HttpCall("GET", f"{_model_path(model, version)}/ready", timeout_s)
        if reply.status == http.client.OK:
            return True
        # A model that is not ready is a bad request to Triton, as is one that it does not know.
        error = refused(self.address, model, self._text(reply))
        if isinstance(error, AccessDeniedError):
            raise error
        return False

    def memory(self) -> MemoryControl:
        """How to share memory with the server."""
        return HttpMemoryControl()

    def _error(self, reply: HttpReply, model: str, version: str) -> Steps[ClientError]:
        """The error of an answer whose status is not 200."""
        text = self._text(reply)
        if error := region_error(self.address, text):
            return error
        if reply.status == http.client.NOT_FOUND:
            return model_not_served(self.address, model, version, (yield from self._index()))
        return refused(self.address, model, text or f"HTTP {reply.status}")

    def _index(self) -> Steps[list[ModelState] | None]:
        """What the server has; None where it does not tell."""
        try:
            reply = yield HttpCall("POST", "/v2/repository/index", SIDE_CALL_TIMEOUT_S)
            entries = self._json(reply)
        except ClientError:
            return None
        if reply.status != http.client.OK:
            return None
        return [
            ModelState(entry["name"], entry.get("version", ""), entry.get("state", ""), entry.get("reason", ""))
            for entry in entries
        ]

    def _text(self, reply: HttpReply) -> str:
        message = self._json(reply)
        return str(message.get("error", "")) if isinstance(message, dict) else ""

    def _json(self, reply: HttpReply) -> Any:
        try:
            return json.loads(self._content(reply) or b"{}")
        except ValueError as error:
            raise self._not_triton(reply, "not JSON") from error

    def _content(self, reply: HttpReply) -> bytes:
        encoding = reply.headers.get("content-encoding", "identity")
        try:
            match encoding:
                case "identity":
                    return reply.body
                case Compression.GZIP | Compression.DEFLATE:
                    return zlib.decompress(reply.body, _WINDOW_BITS[Compression(encoding)])
        except zlib.error as error:
            raise self._not_triton(reply, f"its {encoding} is damaged") from error
        raise self._not_triton(reply, f"not asked for: Content-Encoding {encoding}")

    def _not_triton(self, reply: HttpReply, reason: str) -> ServerUnavailableError:
        return no_server(self.address, f"what answers is not Triton: HTTP {reply.status}, {reason}")


def _compressed(parts: tuple[bytes | memoryview, ...], compression: Compression) -> bytes:
    packer = zlib.compressobj(_FASTEST, zlib.DEFLATED, _WINDOW_BITS[compression])
    return b"".join([*(packer.compress(part) for part in parts), packer.flush()])


def _model_path(model: str, version: str) -> str:
    path = f"/v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{version}" if version else path
