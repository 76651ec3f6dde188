"""Thousands of hostile inputs to a real tritonserver: it stays up, and the answers beside them stay right."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from builder.server import TritonServer
from clients import ClientError, Detector, ImageError
from tests.conftest import StartServer
from tests.integration.test_client import SIZE_HW, assert_found, picture, write_detector

BOXES = {0: (10, 10, 50, 50), 2: (60, 20, 100, 90)}
IMAGE = picture(96, 128, BOXES)
LIMIT_S = 20.0
PIXELS = SIZE_HW[0] * SIZE_HW[1] * 3


def many(examples: int) -> settings:
    # What was found is not kept, and a machine under load is no failure.
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
    )


class Neighbours:
    """Honest clients beside the hostile ones, whose every answer is looked at."""

    def __init__(self, server: TritonServer) -> None:
        self.answers = 0
        self.wrong: list[object] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url,)) for url in (server.grpc_url, server.http_url)]
        for thread in self._threads:
            thread.start()

    def _run(self, url: str) -> None:
        try:
            with Detector(url, "painted") as detector:
                while not self._stop.wait(0.005):
                    assert_found(detector.detect(IMAGE), BOXES, IMAGE.shape[:2])
                    self.answers += 1
        except BaseException as error:
            self.wrong.append(error)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_server: StartServer) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("repository")
    write_detector(repository, "painted")
    server = triton_server(repository)
    pid = server.pid
    neighbours = Neighbours(server)
    yield server
    neighbours.end()
    assert neighbours.wrong == []
    assert neighbours.answers > 20
    assert server.pid == pid
    with Detector(server.grpc_url, "painted") as detector:
        assert detector.is_ready()


@pytest.fixture(scope="module", params=["grpc", "http"])
def detector(server: TritonServer, request: pytest.FixtureRequest) -> Iterator[Detector]:
    with Detector(server.grpc_url if request.param == "grpc" else server.http_url, "painted") as detector:
        yield detector


NAMES = st.one_of(
    st.sampled_from(
        ["painted", "images", "detections", "", "..", "../painted", "painted/1", "%00", "ünïcödé", "a" * 5000]
    ),
    st.text(max_size=40),
)
SIZES = st.one_of(st.integers(-2, 130), st.sampled_from([1 << 31, (1 << 63) - 1, -(1 << 63), 4_000_000_000]))
SHAPES = st.one_of(
    st.just([1, *SIZE_HW, 3]),
    st.lists(SIZES, max_size=6),
    st.integers(0, 6).map(lambda batch: [batch, *SIZE_HW, 3]),
)
TYPES = st.sampled_from(["UINT8", "FP32", "BYTES", "INT64", "BOOL", "FP16", "BF16", "", "uint8", "nonsense"])
CONTENTS = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([PIXELS, PIXELS - 1, PIXELS + 1, 2 * PIXELS, 4 * PIXELS]).map(bytes),
)


@st.composite
def grpc_requests(draw: st.DrawFn) -> bytes:
    """A ModelInferRequest with anything in it, or a damaged one."""
    request = service_pb2.ModelInferRequest(
        model_name=draw(st.one_of(st.just("painted"), NAMES)),
        model_version=draw(st.sampled_from(["", "1", "2", "-1", "99999999999999999999", "x"])),
        id=draw(st.text(max_size=20)),
    )
    for _ in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(
            name=draw(st.one_of(st.just("images"), NAMES)), datatype=draw(TYPES), shape=draw(SHAPES)
        )
        if draw(st.booleans()):
            tensor.parameters["shared_memory_region"].string_param = draw(NAMES)
            tensor.parameters["shared_memory_byte_size"].int64_param = draw(SIZES)
            tensor.parameters["shared_memory_offset"].int64_param = draw(SIZES)
        if draw(st.booleans()):
            tensor.contents.uint_contents.extend(draw(st.lists(st.integers(0, 1 << 31), max_size=5)))
    for _ in range(draw(st.integers(0, 2))):
        request.outputs.add(name=draw(st.one_of(st.just("detections"), NAMES)))
    for _ in range(draw(st.integers(0, 3))):
        request.raw_input_contents.append(draw(CONTENTS))
    for key in draw(
        st.lists(st.sampled_from(["priority", "timeout", "sequence_id", "sequence_start", "x"]), max_size=2)
    ):
        request.parameters[key].int64_param = draw(st.integers(-(1 << 63), (1 << 63) - 1))
    message = bytearray(request.SerializeToString())
    if message and draw(st.integers(0, 4)) == 0:
        for _ in range(draw(st.integers(1, 4))):
            message[draw(st.integers(0, min(len(message), 300) - 1))] = draw(st.integers(0, 255))
    return bytes(message)


@pytest.fixture(scope="module")
def infer(server: TritonServer) -> Iterator[Callable[[bytes], bytes | grpc.RpcError]]:
    """Sends the bytes of a ModelInferRequest; the answer, or the error."""
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def send(request: bytes) -> bytes | grpc.RpcError:
            try:
                return bytes(method(request, timeout=LIMIT_S))
            except grpc.RpcError as error:
                return error

        yield send


@given(request=grpc_requests())
@many(1000)
def test_grpc_request_of_any_kind_is_answered(infer: Callable[[bytes], bytes | grpc.RpcError], request: bytes) -> None:
    answer = infer(request)
    if isinstance(answer, bytes):
        assert service_pb2.ModelInferResponse.FromString(answer).model_name == "painted"
    else:
        assert answer.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        assert not (answer.details() or "").startswith("failed to connect")
        assert "Socket closed" not in (answer.details() or "")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), NAMES),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def http_requests(draw: st.DrawFn) -> tuple[str, dict[str, str], bytes]:
    """Path, headers and body of a request, each of which may be anything."""
    tensor: dict[str, Any] = {
        "name": draw(st.one_of(st.just("images"), NAMES)),
        "datatype": draw(TYPES),
        "shape": draw(st.one_of(SHAPES, JSON)),
        "parameters": {"binary_data_size": draw(st.one_of(st.just(PIXELS), SIZES))},
    }
    if draw(st.booleans()):
        tensor["data"] = draw(JSON)
    body: Any = {"inputs": [tensor] * draw(st.integers(0, 2)), "outputs": [{"name": draw(NAMES)}]}
    for key in draw(st.lists(st.sampled_from(["inputs", "outputs", "id", "parameters"]), max_size=2)):
        body[key] = draw(JSON)
    header = draw(st.one_of(st.just(json.dumps(body).encode()), st.binary(max_size=60)))
    length = draw(st.one_of(st.just(len(header)), st.integers(-2, 200), st.sampled_from([1 << 31, 1 << 63])))
    headers = {"Inference-Header-Content-Length": str(length)}
    if draw(st.integers(0, 5)) == 0:
        headers["Content-Encoding"] = draw(st.sampled_from(["gzip", "deflate", "brotli"]))
    path = draw(
        st.sampled_from(["/v2/models/painted/infer", "/v2/models/painted/versions/1/infer", "/v2/models/x/infer"])
    )
    return path, headers, header + draw(CONTENTS)


@given(request=http_requests())
@many(800)
def test_http_request_of_any_kind_is_answered(server: TritonServer, request: tuple[str, dict[str, str], bytes]) -> None:
    path, headers, body = request
    connection = http.client.HTTPConnection(server.http_url.removeprefix("http://"), timeout=LIMIT_S)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    assert 200 <= answer.status < 600


DTYPES = st.sampled_from(
    [np.uint8, np.int8, np.uint16, np.float32, np.float64, np.complex64, np.bool_, np.str_, object]
)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """An array of any type and shape, whole or a view that leaves things out."""
    dtype = draw(DTYPES)
    shape = draw(
        st.one_of(
            st.lists(st.integers(0, 5), max_size=5),
            st.tuples(st.integers(0, 300), st.integers(0, 300), st.sampled_from([1, 2, 3, 4])).map(list),
            st.sampled_from([[1, 3000, 3], [3000, 1, 3], [65536, 2, 3], [2, 40000]]),
        )
    )
    array: np.ndarray = np.zeros(shape, dtype)
    step = draw(st.sampled_from([1, -1, 2]))
    return array[::step] if array.ndim else array


def outcome(call: Callable[[], Any]) -> Any:
    """What the call gives, or the typed error that it ends in; any other exception fails the test."""
    try:
        return call()
    except ClientError as error:
        return error


@given(image=arrays(), confidence=st.floats(0, 1))
@many(300)
def test_array_of_any_kind_is_answered_or_refused(detector: Detector, image: np.ndarray, confidence: float) -> None:
    found = outcome(lambda: detector.detect(image, confidence))
    assert "\n" not in str(found) if isinstance(found, ClientError) else len(found) == 0


ENCODED = st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*", b"RIFF\0\0\0\0WEBP", b""])


# A library warns of what is odd in a file that it goes on to refuse.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(head=ENCODED, rest=st.binary(max_size=300))
@many(150)
def test_bytes_of_any_kind_are_refused(detector: Detector, head: bytes, rest: bytes) -> None:
    error = outcome(lambda: detector.detect(head + rest))
    assert isinstance(error, ImageError)
    assert "\n" not in str(error)


def model_of(url: str, name: str, version: str) -> str:
    with Detector(url, name, version=version) as detector:
        return detector.model


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@given(name=NAMES.filter(bool), version=st.sampled_from(["", "1", "2", "18446744073709551616"]))
@many(200)
def test_model_of_any_name_is_found_or_not(server: TritonServer, protocol: str, name: str, version: str) -> None:
    url = server.grpc_url if protocol == "grpc" else server.http_url
    found = outcome(lambda: model_of(url, name, version))
    assert "\n" not in str(found) if isinstance(found, ClientError) else found == "painted"
