"""Triton's gRPC protocol.

The request is tritonclient's message, but its tensor is not put into it: protobuf would copy the pixels twice, which
for one 640x640 image costs more than sending it. A serialised message may be split anywhere between its fields and
joined again (protobuf's encoding rules), so the small fields are serialised, and tag, length and pixels appended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from clients.batches import Batch
from clients.contract import INPUT, OUTPUT
from clients.errors import ContractError, one_line
from clients.transport import (
    SIDE_CALL_TIMEOUT_S,
    Address,
    ModelState,
    connection_closed,
    model_not_served,
    no_answer,
    no_server,
    refused,
    wrong_protocol,
)

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
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_LENGTH_DELIMITED = 2


def encode_request(batch: Batch) -> bytes:
    """A batch as a serialised ModelInferRequest."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=batch.contract.model, model_version=batch.contract.version)
    request.inputs.add(name=INPUT, datatype="UINT8", shape=batch.images_BHWC.shape)
    request.outputs.add(name=OUTPUT)
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


def _varint(value: int) -> bytes:
    """Protobuf's base-128 number: seven bits a byte, lowest first, the high bit set on all but the last."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class GrpcTransport:
    """A gRPC channel; it may be shared between threads."""

    def __init__(self, address: Address) -> None:
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self._address = address
        self._messages = service_pb2
        self._channel = grpc.insecure_channel(address.netloc, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model_infer = self._channel.unary_unary(
            _METHOD,
            request_serializer=None,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )

    def model_config(self, model: str, version: str, timeout_s: float) -> dict[str, Any]:
        """The model's configuration."""
        from google.protobuf.json_format import MessageToDict

        request = self._messages.ModelConfigRequest(name=model, version=version)
        response = self._call(self._stub.ModelConfig, request, model, version, timeout_s)
        config: dict[str, Any] = MessageToDict(response.config, preserving_proto_field_name=True)
        return config

    def infer(self, batch: Batch, timeout_s: float) -> NDArray[np.float32]:
        """The answer to one batch, float32 [B, N, 6]."""
        contract = batch.contract
        return decode_response(
            self._call(self._model_infer, encode_request(batch), contract.model, contract.version, timeout_s)
        )

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _call(self, method: Any, request: Any, model: str, version: str, timeout_s: float) -> Any:
        import grpc

        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            self._raise(error, model, version, timeout_s)
        except ValueError as error:
            # grpc's answer to a call on a closed channel.
            raise connection_closed(self._address) from error

    def _raise(self, error: grpc.RpcError, model: str, version: str, timeout_s: float) -> NoReturn:
        import grpc

        code, details = error.code(), one_line(error.details())
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise no_answer(self._address, timeout_s) from error
        if code is grpc.StatusCode.NOT_FOUND:
            raise model_not_served(self._address, model, version, self._index()) from error
        if code is grpc.StatusCode.UNAVAILABLE and not self._is_live():
            # gRPC's core and a server that refuses a request (a full queue) send the same status.
            # Its details nest: "failed to connect to all addresses; last error: ...: Connection refused".
            reason = details.rpartition(": ")[2].rstrip("]")
            raise (wrong_protocol if reason == "Socket closed" else no_server)(self._address, reason) from error
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise wrong_protocol(self._address, details or "it has no inference service") from error
        raise refused(self._address, model, details) from error

    def _is_live(self) -> bool:
        import grpc

        try:
            return bool(self._stub.ServerLive(self._messages.ServerLiveRequest(), timeout=SIDE_CALL_TIMEOUT_S).live)
        except grpc.RpcError:
            return False

    def _index(self) -> list[ModelState] | None:
        """What the server has; None where it does not tell."""
        import grpc

        try:
            answer = self._stub.RepositoryIndex(self._messages.RepositoryIndexRequest(), timeout=SIDE_CALL_TIMEOUT_S)
        except grpc.RpcError:
            return None
        return [ModelState(model.name, model.version, model.state, model.reason) for model in answer.models]
