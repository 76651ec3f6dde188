"""Triton's gRPC protocol without a connection: messages, and the errors that statuses stand for.

The request is tritonclient's message, but its tensor is not put into it: protobuf would copy the pixels twice, which
for one 640x640 image costs more than sending it. A serialised message may be split anywhere between its fields and
joined again (protobuf's encoding rules), so the small fields are serialised, and tag, length and pixels appended.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.batches import Batch
from clients.contract import INPUT, OUTPUT
from clients.encoded import EncodedRequest, grpc_message, rows_from_grpc
from clients.errors import ClientError, ContractError, InferenceError, one_line
from clients.memory.control import GrpcMemoryControl, MemoryControl, region_error
from clients.memory.regions import Place
from clients.wire.address import Address
from clients.wire.failures import (
    ModelState,
    connection_closed,
    model_not_served,
    no_answer,
    no_server,
    no_trust,
    refused,
    wrong_protocol,
)
from clients.wire.steps import GrpcCall, RpcStatusError, Steps

SIDE_CALL_TIMEOUT_S = 3.0
"""For the questions that only make an error's message better."""
_LENGTH_DELIMITED = 2
# What gRPC's core says when it never had a connection to send the request over.
_NO_TRUST = ("handshake", "Handshake", "SSL_ERROR", "Hostname Verification", "Peer name")
_NEVER_CONNECTED = ("failed to connect to all addresses", "DNS resolution failed", "name resolution")


def encode_request(batch: Batch) -> bytes:
    """A batch as a serialised ModelInferRequest."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=batch.contract.model, model_version=batch.contract.version)
    images = request.inputs.add(name=INPUT, datatype="UINT8", shape=batch.images_BHWC.shape)
    rows = request.outputs.add(name=OUTPUT)
    if batch.priority:
        request.parameters["priority"].uint64_param = batch.priority
    if batch.slot is not None:
        _put(images, batch.slot.images_place(len(batch.images_BHWC)))
        _put(rows, batch.slot.rows_place(len(batch.images_BHWC)))
        return bytes(request.SerializeToString())
    field = service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"]
    return b"".join(
        (
            request.SerializeToString(),
            _varint(field.number << 3 | _LENGTH_DELIMITED),
            _varint(batch.images_BHWC.nbytes),
            batch.images_BHWC.data,
        )
    )


def decode_response(response: Any) -> NDArray[np.float32]:
    """The rows of a ModelInferResponse, float32 [B, N, 6]; raises ContractError for one without them."""
    for output, content in zip(response.outputs, response.raw_output_contents, strict=False):
        if output.name == OUTPUT and output.datatype == "FP32":
            return np.frombuffer(content, np.float32).reshape(tuple(output.shape))
    got = ", ".join(f"{output.name} {output.datatype}" for output in response.outputs) or "nothing"
    raise ContractError(f"expected {OUTPUT} FP32 in the answer, got {got}: verify the model on the server")


def check_shared_response(response: Any, batch: Batch) -> None:
    """Raise ContractError for a ModelInferResponse whose rows, in shared memory, are not those of the batch."""
    expected = [(OUTPUT, "FP32", [len(batch.images_BHWC), batch.contract.max_detections, 6])]
    if (got := [(each.name, each.datatype, list(each.shape)) for each in response.outputs]) != expected:
        raise ContractError(f"expected {expected} in the answer, got {got}: verify the model on the server")


def _put(tensor: Any, place: Place) -> None:
    tensor.parameters["shared_memory_region"].string_param = place.region
    tensor.parameters["shared_memory_offset"].int64_param = place.offset
    tensor.parameters["shared_memory_byte_size"].int64_param = place.byte_size


def _varint(value: int) -> bytes:
    """Protobuf's base-128 number: seven bits a byte, lowest first, the high bit set on all but the last."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class GrpcDialect:
    """How to ask a Triton server over gRPC."""

    def __init__(self, address: Address) -> None:
        from tritonclient.grpc import service_pb2

        self.address = address
        self._messages = service_pb2
        self._has_answered = False

    def model_config(self, model: str, version: str, timeout_s: float) -> Steps[dict[str, Any]]:
        """The model's configuration."""
        from google.protobuf.json_format import MessageToDict

        request = self._messages.ModelConfigRequest(name=model, version=version)
        answer = yield from self._call("ModelConfig", request.SerializeToString(), model, version, timeout_s)
        response = self._messages.ModelConfigResponse.FromString(answer)
        config: dict[str, Any] = MessageToDict(response.config, preserving_proto_field_name=True)
        return config

    def infer(self, batch: Batch, timeout_s: float) -> Steps[NDArray[np.float32]]:
        """The answer to one batch, float32 [B, N, 6]."""
        contract = batch.contract
        message = encode_request(batch)
        answer = yield from self._call("ModelInfer", message, contract.model, contract.version, timeout_s)
        response = self._messages.ModelInferResponse.FromString(answer)
        if batch.slot is None:
            return decode_response(response)
        check_shared_response(response, batch)
        return batch.slot.receive(len(batch.images_BHWC))

    def infer_encoded(self, request: EncodedRequest, timeout_s: float) -> Steps[NDArray[np.float32]]:
        """The answer to one encoded image, float32 [N, 6]."""
        answer = yield from self._call("ModelInfer", grpc_message(request), request.contract.model, "", timeout_s)
        return rows_from_grpc(self._messages.ModelInferResponse.FromString(answer))

    def is_ready(self, model: str, version: str, timeout_s: float) -> Steps[bool]:
        """Whether the server would take a request for the model now."""
        request = self._messages.ModelReadyRequest(name=model, version=version)
        answer = yield from self._call("ModelReady", request.SerializeToString(), model, version, timeout_s)
        return bool(self._messages.ModelReadyResponse.FromString(answer).ready)

    def memory(self) -> MemoryControl:
        """How to share memory with the server."""
        return GrpcMemoryControl(self)

    def failed(self, failure: RpcStatusError, timeout_s: float) -> Steps[ClientError]:
        """The error of a call that is about no model."""
        return (yield from self._error(failure, "shared memory", "", timeout_s))

    def _call(self, method: str, message: bytes, model: str, version: str, timeout_s: float) -> Steps[bytes]:
        try:
            answer: bytes = yield GrpcCall(method, message, timeout_s)
        except RpcStatusError as failure:
            error = region_error(self.address, failure.details)
            raise error or (yield from self._error(failure, model, version, timeout_s)) from failure
        self._has_answered = True
        return answer

    def _error(self, failure: RpcStatusError, model: str, version: str, timeout_s: float) -> Steps[ClientError]:
        address, details = self.address, one_line(failure.details)
        match failure.code:
            case "DEADLINE_EXCEEDED":
                return no_answer(address, timeout_s)
            case "NOT_FOUND":
                return model_not_served(address, model, version, (yield from self._index()))
            case "UNIMPLEMENTED":
                return wrong_protocol(address, details or "it has no inference service")
            case "CANCELLED":
                return connection_closed(address)
            case "UNAVAILABLE":
                return (yield from self._unavailable(details, model))
        return refused(address, model, details)

    def _unavailable(self, details: str, model: str) -> Steps[ClientError]:
        """gRPC's core and a server that refuses a request send the same status."""
        # Its details nest: "failed to connect to all addresses; last error: ...: Connection refused".
        reason = details.rpartition(": ")[2].rstrip("]")
        if self.address.has_tls and (
            any(words in details for words in _NO_TRUST)
            # A server that asks for a certificate tells that this one's is missing after the handshake, by hanging up.
            or (reason == "Socket closed" and not self._has_answered)
        ):
            said = details.rpartition("OPENSSL_internal:")[2].removesuffix(": OK") if "OPENSSL" in details else reason
            if reason == "Socket closed":
                said = "it hung up; it may ask for a certificate"
            return no_trust(self.address, said.replace("_", " ").lower())
        if any(words in details for words in _NEVER_CONNECTED):
            if reason == "Socket closed":
                return wrong_protocol(self.address, reason)
            return no_server(self.address, reason, not_accepted=True)
        error = refused(self.address, model, details)
        if type(error) is not InferenceError or (yield from self._is_live()):
            return error
        return (wrong_protocol if reason == "Socket closed" else no_server)(self.address, reason)

    def _is_live(self) -> Steps[bool]:
        message = self._messages.ServerLiveRequest().SerializeToString()
        try:
            answer = yield GrpcCall("ServerLive", message, SIDE_CALL_TIMEOUT_S)
        except (RpcStatusError, ClientError):
            return False
        return bool(self._messages.ServerLiveResponse.FromString(answer).live)

    def _index(self) -> Steps[list[ModelState] | None]:
        """What the server has; None where it does not tell."""
        message = self._messages.RepositoryIndexRequest().SerializeToString()
        try:
            answer = yield GrpcCall("RepositoryIndex", message, SIDE_CALL_TIMEOUT_S)
        except (RpcStatusError, ClientError):
            return None
        models = self._messages.RepositoryIndexResponse.FromString(answer).models
        return [ModelState(model.name, model.version, model.state, model.reason) for model in models]
