"""Addresses, and what is on the wire."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from clients.batches import Batch, batches
from clients.contract import Contract
from clients.errors import (
    AddressError,
    ContractError,
    DeadlineExceededError,
    ModelNotFoundError,
    ModelNotReadyError,
    ServerUnavailableError,
)
from clients.wire import grpc_dialect, http_dialect
from clients.wire.address import Address, address_from
from clients.wire.failures import ModelState, model_not_served
from clients.wire.transport import connect

HERE = Address("grpc", "127.0.0.1", 8001)


@pytest.fixture
def batch() -> Batch:
    contract = Contract(
        model="shapes", version="3", size_hw=(64, 96), names=("a",), max_batch_size=8, max_detections=10
    )
    dice = np.random.default_rng(2)
    return next(batches([dice.integers(0, 256, (64, 96, 3), np.uint8) for _ in range(3)], contract))


class TestAddress:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("grpc://127.0.0.1:8001", Address("grpc", "127.0.0.1", 8001)),
            ("http://triton.example:8000", Address("http", "triton.example", 8000)),
            ("grpcs://triton.example:8001", Address("grpcs", "triton.example", 8001)),
            ("https://triton.example:443", Address("https", "triton.example", 443)),
            ("http://triton.example:8000/", Address("http", "triton.example", 8000)),
            ("grpc://[::1]:8001", Address("grpc", "::1", 8001)),
        ],
    )
    def test_every_form_is_read(self, url: str, expected: Address) -> None:
        assert address_from(url) == expected
        assert str(expected) == url.rstrip("/")

    @pytest.mark.parametrize(
        "url",
        [
            "127.0.0.1:8001",
            "localhost:8001",
            "",
            "grpc://",
            "grpc://127.0.0.1",
            "grpc://:8001",
            "grpc://127.0.0.1:0",
            # gRPC itself takes a port modulo 65536.
            "grpc://127.0.0.1:73537",
            "grpc://127.0.0.1:port",
            "ftp://127.0.0.1:8000",
            "grpc://127.0.0.1:8001/shapes",
            "http://127.0.0.1:8000?x=1",
            "http://user@127.0.0.1:8000",
            "http://[::1:8000",
        ],
    )
    def test_anything_else_is_refused_naming_both_forms(self, url: str) -> None:
        with pytest.raises(AddressError, match=r"expected grpc://HOST:PORT or http://HOST:PORT") as caught:
            connect(url)
        assert "\n" not in str(caught.value)


class TestModelNotServed:
    index = (
        ModelState("shapes", "1", "UNAVAILABLE", "unloaded"),
        ModelState("shapes", "2", "READY", ""),
        ModelState("faces", "", "", ""),
    )

    def test_unknown_model_comes_with_what_there_is(self) -> None:
        error = model_not_served(HERE, "shape", "", self.index)
        assert isinstance(error, ModelNotFoundError)
        assert str(error) == "no model 'shape' at grpc://127.0.0.1:8001, which has: faces, shapes"

    def test_unknown_version_comes_with_what_there_is(self) -> None:
        error = model_not_served(HERE, "shapes", "9", self.index)
        assert isinstance(error, ModelNotFoundError)
        assert "has no version 9, it has: 1, 2" in str(error)

    def test_known_model_is_not_ready_for_a_reason(self) -> None:
        error = model_not_served(HERE, "shapes", "1", self.index)
        assert isinstance(error, ModelNotReadyError)
        assert "is not ready: version 1 UNAVAILABLE (unloaded)" in str(error)
        assert "NOT LOADED" in str(model_not_served(HERE, "faces", "", self.index))

    def test_empty_server_and_silent_server_are_told_apart(self) -> None:
        assert "no model at all" in str(model_not_served(HERE, "shapes", "", []))
        assert str(model_not_served(HERE, "shapes", "2", None)).startswith("no model 'shapes' version 2 at")


class TestGrpcMessages:
    def test_request_is_the_message_that_protobuf_would_write(self, batch: Batch) -> None:
        request = service_pb2.ModelInferRequest.FromString(grpc_dialect.encode_request(batch))
        expected = service_pb2.ModelInferRequest(model_name="shapes", model_version="3")
        expected.inputs.add(name="images", datatype="UINT8", shape=[3, 64, 96, 3])
        expected.outputs.add(name="detections")
        expected.raw_input_contents.append(batch.images_BHWC.tobytes())
        assert request == expected

    @pytest.mark.parametrize("size_hw", [(1, 1), (6, 7), (32, 32), (640, 640)])
    def test_length_of_any_size_is_written_right(self, size_hw: tuple[int, int]) -> None:
        contract = Contract(model="m", version="", size_hw=size_hw, names=("a",), max_batch_size=1, max_detections=1)
        batch = next(batches([np.zeros((4, 4, 3), np.uint8)], contract))
        request = service_pb2.ModelInferRequest.FromString(grpc_dialect.encode_request(batch))
        assert [len(content) for content in request.raw_input_contents] == [size_hw[0] * size_hw[1] * 3]

    def test_rows_are_read_from_the_answer(self) -> None:
        rows = np.arange(2 * 5 * 6, dtype=np.float32).reshape(2, 5, 6)
        response = service_pb2.ModelInferResponse()
        response.outputs.add(name="detections", datatype="FP32", shape=rows.shape)
        response.raw_output_contents.append(rows.tobytes())
        np.testing.assert_array_equal(grpc_dialect.decode_response(response), rows)

    def test_answer_without_detections_is_an_error(self) -> None:
        response = service_pb2.ModelInferResponse()
        response.outputs.add(name="output0", datatype="FP32", shape=[1])
        response.raw_output_contents.append(bytes(4))
        with pytest.raises(ContractError, match="got output0 FP32"):
            grpc_dialect.decode_response(response)


class TestHttpMessages:
    def test_request_says_what_tritonclient_would_say(self, batch: Batch) -> None:
        tensor = InferInput("images", list(batch.images_BHWC.shape), "UINT8")
        tensor.set_data_from_numpy(batch.images_BHWC)
        expected, length = InferenceServerClient.generate_request_body(
            [tensor], outputs=[InferRequestedOutput("detections", binary_data=True)]
        )
        header, pixels = http_dialect.encode_request(batch)
        assert json.loads(header) == json.loads(expected[:length])
        assert bytes(pixels) == expected[length:]

    def test_pixels_are_not_copied(self, batch: Batch) -> None:
        assert np.shares_memory(np.asarray(http_dialect.encode_request(batch)[1]), batch.images_BHWC)

    def test_answer_without_detections_is_an_error(self) -> None:
        header = json.dumps({"outputs": [{"name": "output0", "datatype": "FP32", "shape": [1]}]}).encode()
        with pytest.raises(ContractError, match="got output0 FP32"):
            http_dialect.decode_response(header + bytes(4), len(header))


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def http_server(answer: Answer) -> Iterator[str]:
    """A small HTTP server on loopback that is not Triton; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def reply(handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


class TestOtherServers:
    @pytest.mark.parametrize("status", [200, 404, 500])
    def test_web_server_is_not_taken_for_triton(self, status: int) -> None:
        with http_server(lambda handler: reply(handler, status, b"<html>Welcome</html>")) as url:
            transport = connect(url)
            with pytest.raises(ServerUnavailableError, match=f"is not Triton: HTTP {status}, not JSON"):
                transport.model_config("shapes", "", 60)
            transport.close()

    def test_server_that_answers_with_nothing_is_taken_for_the_metrics_port(self) -> None:
        with http_server(lambda handler: reply(handler, 200, b"")) as url:
            transport = connect(url)
            with pytest.raises(ServerUnavailableError, match=r"is Triton's metrics port .* give its HTTP port"):
                transport.model_config("shapes", "", 60)
            transport.close()

    def test_idle_connection_that_the_server_closed_is_replaced(self) -> None:
        connections = set()

        def answer_once(handler: http.server.BaseHTTPRequestHandler) -> None:
            connections.add(handler.client_address)
            reply(handler, 200, b'{"name": "shapes"}')
            # Without a "Connection: close" header, as a server does that has grown tired of waiting.
            handler.close_connection = True

        with http_server(answer_once) as url:
            transport = connect(url)
            for _ in range(3):
                assert transport.model_config("shapes", "", 60) == {"name": "shapes"}
            transport.close()
        assert len(connections) == 3

    @pytest.mark.parametrize("scheme", ["grpc", "http"])
    def test_port_that_never_answers_is_a_deadline(self, scheme: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
            transport = connect(address)
            with pytest.raises(DeadlineExceededError, match=rf"no answer from {address} within 0\.3 s"):
                transport.model_config("shapes", "", 0.3)
            transport.close()

    @pytest.mark.parametrize("scheme", ["grpc", "http"])
    def test_server_that_hangs_up_is_one_clear_line(self, scheme: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as rude:

            def hang_up() -> None:
                while True:
                    try:
                        rude.accept()[0].close()
                    except OSError:
                        return

            thread = threading.Thread(target=hang_up, daemon=True)
            thread.start()
            transport = connect(f"{scheme}://127.0.0.1:{rude.getsockname()[1]}")
            with pytest.raises(ServerUnavailableError) as caught:
                transport.model_config("shapes", "", 60)
            transport.close()
            rude.shutdown(socket.SHUT_RDWR)
            thread.join()
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("scheme", ["grpc", "http"])
    def test_closed_connection_says_so(self, scheme: str) -> None:
        transport = connect(f"{scheme}://127.0.0.1:9")
        transport.close()
        with pytest.raises(ServerUnavailableError, match=r"closed by close\(\)"):
            transport.model_config("shapes", "", 1)
