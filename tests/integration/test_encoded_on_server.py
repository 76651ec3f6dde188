"""Encoded images against a real tritonserver: a stand-in for a detector, and the real models on either side of it."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import io
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from builder.artifacts import OnnxModel, TensorSpec
from builder.doctor.diagnosis import diagnose
from builder.ensemble import encoded_models
from builder.repository import publish, publish_content
from builder.server import TritonServer
from builder.serving import ServingSettings
from builder.verify import verify
from clients import AsyncDetector, Detector
from clients.detections import Detections
from clients.encoded import (
    EVERYTHING,
    EncodedContract,
    encoded_contract_from_config,
    encoded_request,
    grpc_message,
    http_body,
    image_error,
    model_names,
    rows_from_grpc,
    rows_from_http,
)
from clients.encoded_images import check_encoded
from clients.errors import ContractError, ImageError, ModelNotFoundError
from clients.images import read_image
from clients.letterbox import letterbox
from clients.selection import Selection
from tests.conftest import StartServer
from tests.deployments import deployment

SIZE_HW = (96, 128)
ROWS = 300
NAMES = ("rot", "grün", "blue")
TIMEOUT_S = 60
DETECTORS = ("plant", "crowd", "strict", "stale")
SUFFIXES = ("", "_decode", "_select", "_jpeg")

# Its answer tells every pixel that it saw from every other: a row for each 8x8 tile of one colour.
STAND_IN = """
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.02)
        return [self.answer(pb_utils.get_input_tensor_by_name(each, "images").as_numpy()) for each in requests]

    def answer(self, images):
        rows = np.zeros((len(images), 300, 6), np.float32)
        for image, found in zip(images, rows):
            tiles = image.reshape(12, 8, 16, 8, 3).astype(np.int64)
            sums = tiles.sum(axis=(1, 3))
            colour = sums.argmax(axis=-1)
            total = sums.sum(axis=-1)
            y, x = np.mgrid[:12, :16] * 8
            confidence = (1 + sums.max(axis=-1) + total % 97) / 20000
            table = np.stack([x, y, x + 8, y + 8, confidence, colour], axis=-1).reshape(-1, 6)
            found[:192] = table[np.argsort(-table[:, 4], kind="stable")]
        return pb_utils.InferenceResponse([pb_utils.Tensor("detections", rows)])
"""

MODEL = OnnxModel(
    path=Path("model.onnx"),
    sha256="0" * 64,
    inputs=(TensorSpec(name="images", dtype="UINT8", shape=(*SIZE_HW, 3)),),
    outputs=(TensorSpec(name="detections", dtype="FP32", shape=(ROWS, 6)),),
)
SETTINGS = ServingSettings(max_batch=8, queue_timeout_ms=30_000)
WARMUP_IMAGES = 1 + SETTINGS.max_batch


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for name in ("plant", "crowd", "strict"):
        served = deployment(MODEL, name, settings=SETTINGS, classes=NAMES)
        files = {"model.onnx": b"", "model.py": STAND_IN.encode(), "labels.txt": "\n".join(NAMES).encode()}
        publish(folder, name, files=files, configs=served.configs, build={})
        for extra in encoded_models(served):
            config = limited(extra.config) if extra.name == "strict_decode" else extra.config
            publish_content(folder, extra.name, dataclasses.replace(extra, config=config).content)
    # Trained for other classes, and built without the models beside it.
    relabelled = deployment(MODEL, "stale", settings=SETTINGS, classes=(*NAMES, "new"))
    files = {"model.onnx": b"", "model.py": STAND_IN.encode(), "labels.txt": b""}
    publish(folder, "stale", files=files, configs=relabelled.configs, build={})
    for extra in encoded_models(deployment(MODEL, "stale", settings=SETTINGS, classes=NAMES)):
        publish_content(folder, extra.name, extra.content)
    return folder


def limited(config: Any) -> Any:
    def smaller(version: int) -> Any:
        message = config(version)
        message.parameters["max_pixels"].string_value = "10000"
        return message

    return smaller


@pytest.fixture(scope="module")
def server(repository: Path, triton_server: StartServer) -> TritonServer:
    return triton_server(repository, config_name="cpu")


class Client:
    """Sends what clients.encoded makes, and reads what it reads."""

    def __init__(self, server: TritonServer, model: str = "plant") -> None:
        self.model = model_names(model).jpeg
        self.detector = model
        self._server = server
        self.grpc = triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://"))
        config = self.grpc.get_model_config(self.model, as_json=True)["config"]
        self.contract: EncodedContract = encoded_contract_from_config(config, model=self.model)

    def detect(self, encoded: bytes, selection: Selection = EVERYTHING, priority: int = 0) -> Detections:
        request = encoded_request(encoded, self.contract, selection, priority=priority)
        return request.detections(rows_from_grpc(self.send(grpc_message(request))))

    def detect_over_http(self, encoded: bytes, selection: Selection = EVERYTHING) -> Detections:
        request = encoded_request(encoded, self.contract, selection)
        header, content = http_body(request)
        headers = {"Inference-Header-Content-Length": str(len(header))}
        connection = http.client.HTTPConnection("127.0.0.1", self._server.options.http_port, timeout=TIMEOUT_S)
        connection.request("POST", f"/v2/models/{self.model}/infer", header + content, headers)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        assert response.status == http.client.OK, body
        length = int(response.getheader("Inference-Header-Content-Length", "0"))
        return request.detections(rows_from_http(body, length))

    def send(self, message: bytes) -> Any:
        from tritonclient.grpc import service_pb2

        return self.grpc._client_stub.ModelInfer(service_pb2.ModelInferRequest.FromString(message), timeout=TIMEOUT_S)

    def ask(self, encoded: bytes, outputs: tuple[str, ...] = (), **parameters: Any) -> dict[str, np.ndarray]:
        """Whatever is given, unchecked."""
        tensor = triton.InferInput("encoded", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([encoded], dtype=object))
        wanted = [triton.InferRequestedOutput(name) for name in outputs] or None
        answer = self.grpc.infer(self.model, [tensor], outputs=wanted, parameters=parameters, client_timeout=TIMEOUT_S)
        return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}

    def refusal(self, encoded: bytes, **parameters: Any) -> str:
        with pytest.raises(triton.InferenceServerException) as caught:
            self.ask(encoded, **parameters)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        return str(caught.value.message())

    def expected(self, encoded: bytes) -> Detections:
        """What the detector alone says of the picture, decoded and letterboxed here."""
        pixels, box = letterbox(read_image(encoded), SIZE_HW)
        tensor = triton.InferInput("images", [1, *SIZE_HW, 3], "UINT8")
        tensor.set_data_from_numpy(pixels[None])
        rows = self.grpc.infer(self.detector, [tensor], client_timeout=TIMEOUT_S).as_numpy("detections")
        return Detections.from_rows(rows[0], box, NAMES, 0.0)


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Client:
    return Client(server)


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture whose tiles differ."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded_as(file_format: str, image: np.ndarray | Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, file_format, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its few bytes hold."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


PICTURES = {
    "jpeg": encoded_as("JPEG", scene(1080, 1920)),
    "jpeg of odd size": encoded_as("JPEG", scene(333, 501), quality=70),
    "jpeg in grey": encoded_as("JPEG", Image.fromarray(scene(200, 100)).convert("L")),
    "jpeg in CMYK": encoded_as("JPEG", Image.fromarray(scene(120, 240)).convert("CMYK")),
    "progressive jpeg": encoded_as("JPEG", scene(300, 300), progressive=True),
    **{f"jpeg turned {way}": encoded_as("JPEG", scene(160, 90), exif=turned(way)) for way in range(2, 9)},
    "png": encoded_as("PNG", scene(77, 99)),
    "png with alpha": encoded_as("PNG", Image.fromarray(scene(77, 99)).convert("RGBA")),
    "png with palette": encoded_as("PNG", Image.fromarray(scene(77, 99)).convert("P")),
    "png of 16 bits": encoded_as("PNG", Image.fromarray(scene(64, 64)[..., 0].astype(np.uint16) * 257)),
    "png of the input's own size": encoded_as("PNG", scene(*SIZE_HW)),
    "png of one pixel": encoded_as("PNG", scene(1, 1)),
    "png of one row": encoded_as("PNG", scene(1, 999)),
    "png of 18 megapixels": encoded_as("PNG", np.full((3600, 5000, 3), 99, np.uint8), compress_level=1),
    "webp": encoded_as("WEBP", scene(240, 320)),
    "lossless webp": encoded_as("WEBP", scene(240, 320), lossless=True),
}
BROKEN = {
    "garbage": (b"this is no image", "expected JPEG, PNG or WebP"),
    "nothing": (b"", "expected JPEG, PNG or WebP, got none"),
    "half a jpeg": (PICTURES["jpeg"][: len(PICTURES["jpeg"]) // 2], "truncated or damaged"),
    "half a png": (PICTURES["png"][: len(PICTURES["png"]) // 2], "truncated or damaged"),
    "half a webp": (PICTURES["webp"][: len(PICTURES["webp"]) // 2], "truncated or damaged"),
    "a jpeg's first bytes": (b"\xff\xd8\xff", "truncated or damaged"),
    "a bomb": (bomb(50_000, 50_000), "50000x50000 pixels are more than the limit of 178 megapixels"),
    "a picture that is not there": (bomb(5000, 5000), "truncated or damaged"),
    "a bitmap": (encoded_as("BMP", scene(20, 20)), "expected JPEG, PNG or WebP"),
    "a tiff": (encoded_as("TIFF", scene(20, 20)), "expected JPEG, PNG or WebP"),
    "a gif": (encoded_as("GIF", scene(20, 20)), "expected JPEG, PNG or WebP"),
}


class TestPictures:
    @pytest.mark.parametrize("name", PICTURES)
    def test_decoding_step_gives_the_clients_pixels_bit_for_bit(self, client: Client, name: str) -> None:
        tensor = triton.InferInput("encoded", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([PICTURES[name]], dtype=object))
        answer = client.grpc.infer("plant_decode", [tensor], client_timeout=TIMEOUT_S)
        picture = read_image(PICTURES[name])
        np.testing.assert_array_equal(answer.as_numpy("images")[0], letterbox(picture, SIZE_HW)[0])
        assert answer.as_numpy("image_hw").tolist() == list(picture.shape[:2])

    @pytest.mark.parametrize("name", PICTURES)
    def test_boxes_are_those_of_the_picture_decoded_here(self, client: Client, name: str) -> None:
        expected = client.expected(PICTURES[name])
        assert client.detect(PICTURES[name]) == expected
        assert len(expected) == 192

    def test_both_protocols_give_identical_results(self, client: Client) -> None:
        selection = Selection(classes=("grün",), maximum=5)
        for encoded in (PICTURES["jpeg"], PICTURES["webp"]):
            assert client.detect_over_http(encoded) == client.detect(encoded)
            assert client.detect_over_http(encoded, selection) == client.detect(encoded, selection)

    def test_answer_tells_the_upright_size(self, client: Client) -> None:
        assert client.ask(PICTURES["jpeg turned 6"], ("image_hw",))["image_hw"].tolist() == [90, 160]
        assert client.ask(PICTURES["jpeg"], ("image_hw",))["image_hw"].tolist() == [1080, 1920]

    def test_contract_is_read_from_the_server(self, client: Client) -> None:
        assert client.contract == EncodedContract(model="plant_jpeg", names=NAMES, size_hw=SIZE_HW, max_detections=ROWS)


class TestWhatIsNoPicture:
    @pytest.mark.parametrize("name", BROKEN)
    def test_is_refused_with_its_reason(self, client: Client, name: str) -> None:
        encoded, reason = BROKEN[name]
        said = client.refusal(encoded)
        assert reason in said
        assert "\n" not in said
        error = image_error(said)
        assert isinstance(error, ImageError)
        assert str(error).startswith(f"encoded image of {len(encoded)} bytes: ")

    def test_fails_no_neighbour_in_the_batch(self, server: TritonServer) -> None:
        client = Client(server, "crowd")
        good = [PICTURES[name] for name in ("jpeg of odd size", "png", "webp", "jpeg turned 6", "png of one row")]
        expected = [client.expected(encoded) for encoded in good]
        bad = [encoded for encoded, _ in BROKEN.values()]
        before = executions_of(client, images=WARMUP_IMAGES + len(good))

        def ask(number: int) -> bool:
            if number % 3 == 0:
                return "encoded image of" in client.refusal(bad[number // 3 % len(bad)])
            return client.detect(good[number % len(good)]) == expected[number % len(good)]

        with ThreadPoolExecutor(32) as pool:
            right = list(pool.map(ask, range(300)))
        assert right == [True] * 300
        # Requests shared batches, so there were neighbours.
        assert executions_of(client, images=WARMUP_IMAGES + len(good) + 200) - before < 200

    @given(
        name=st.sampled_from(["jpeg of odd size", "progressive jpeg", "png", "webp", "jpeg turned 6"]),
        percent=st.integers(0, 120),
        damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    )
    @settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_damage_is_judged_as_it_is_here(
        self, client: Client, name: str, percent: int, damage: list[tuple[int, int]]
    ) -> None:
        content = bytearray(PICTURES[name][: len(PICTURES[name]) * percent // 100])
        for place, value in damage if content else ():
            content[place % len(content)] = value
        encoded = bytes(content)
        expected = judged_here(client, encoded)
        if isinstance(expected, Detections):
            assert client.detect(encoded) == expected
        else:
            assert str(expected) in client.refusal(encoded)

    def test_server_may_have_a_lower_limit_of_pixels(self, server: TritonServer) -> None:
        strict = Client(server, "strict")
        assert len(strict.detect(encoded_as("PNG", scene(100, 100)))) == 192
        said = strict.refusal(encoded_as("PNG", scene(100, 101)))
        assert "101x100 pixels are more than this server's limit of 10000" in said

    def test_burst_is_answered_whole(self, client: Client) -> None:
        expected = client.expected(PICTURES["png"])
        with ThreadPoolExecutor(100) as pool:
            answers = list(pool.map(lambda _: client.detect(PICTURES["png"]), range(100)))
        assert answers == [expected] * 100


def judged_here(client: Client, encoded: bytes) -> Detections | ImageError:
    try:
        check_encoded(encoded)
        return client.expected(encoded)
    except ImageError as error:
        return error


def executions_of(client: Client, images: int) -> int:
    """Of the detector, for so many images as it has had; Triton counts them after it has answered."""
    give_up = time.monotonic() + TIMEOUT_S
    while True:
        stats = client.grpc.get_inference_statistics(client.detector).model_stats[0]
        if stats.inference_count == images:
            return int(stats.execution_count)
        assert time.monotonic() < give_up, f"expected {images} images to be counted, got {stats.inference_count}"
        time.sleep(0.02)


class TestSelection:
    PICTURE = PICTURES["jpeg of odd size"]

    @pytest.mark.parametrize(
        "selection",
        [
            Selection(),
            Selection(classes=("rot",)),
            Selection(classes=("blue", "grün")),
            Selection(classes=()),
            Selection(confidence=0.7),
            Selection(confidence=1.0),
            Selection(region_xyxy=(100, 50, 300.5, 200)),
            Selection(region_xyxy=(-1e6, -1e6, 0, 0)),
            Selection(region_xyxy=(250, 0, 1e9, 1e9)),
            Selection(maximum=1),
            Selection(maximum=0),
            Selection(maximum=10**9),
            Selection(classes=("grün", "blue"), confidence=0.4, region_xyxy=(0, 0, 400, 300), maximum=7),
        ],
    )
    def test_server_keeps_what_the_client_would(self, client: Client, selection: Selection) -> None:
        everything = client.expected(self.PICTURE)
        assert client.detect(self.PICTURE, selection) == selection.apply(everything)

    def test_answer_has_no_more_rows_than_are_left(self, client: Client) -> None:
        answer = client.ask(self.PICTURE, select='{"maximum": 2}')
        assert {name: tensor.shape for name, tensor in answer.items()} == {
            "detections": (2, 6),
            "xyxy": (2, 4),
            "confidence": (2,),
            "class_id": (2,),
            "count": (1,),
            "image_hw": (2,),
        }
        rows = answer["detections"]
        np.testing.assert_array_equal(answer["xyxy"], rows[:, :4])
        np.testing.assert_array_equal(answer["confidence"], rows[:, 4])
        np.testing.assert_array_equal(answer["class_id"], rows[:, 5])
        assert answer["count"].tolist() == [2]

    def test_fields_are_the_outputs_that_are_asked_for(self, client: Client) -> None:
        whole = client.ask(self.PICTURE, select='{"maximum": 3}')
        for name, tensor in whole.items():
            answer = client.ask(self.PICTURE, (name,), select='{"maximum": 3}')
            assert list(answer) == [name]
            np.testing.assert_array_equal(answer[name], tensor)

    def test_whether_there_is_one_takes_four_bytes(self, client: Client) -> None:
        answer = client.ask(self.PICTURE, ("count",), select='{"classes": ["rot"], "maximum": 1}')
        assert {name: tensor.tolist() for name, tensor in answer.items()} == {"count": [1]}
        assert answer["count"].nbytes == 4

    @pytest.mark.parametrize(
        ("parameters", "reason"),
        [
            ({"select": "people"}, "expected JSON, got 'people'"),
            ({"select": ""}, "expected JSON"),
            ({"select": "[" * 100_000}, "expected JSON"),
            ({"select": "[]"}, "expected a JSON object of classes, confidence, region_xyxy, maximum"),
            ({"select": '{"class": ["rot"]}'}, "no such field 'class', nearest: classes"),
            ({"select": '{"classes": "rot"}'}, "classes: expected a list of class names"),
            ({"select": '{"classes": ["gruen"]}'}, "no class 'gruen', the model has: rot, grün, blue"),
            ({"select": '{"confidence": 1.5}'}, "expected a confidence from 0 to 1, got 1.5"),
            ({"select": '{"confidence": NaN}'}, "expected a confidence from 0 to 1"),
            ({"select": '{"confidence": "0.5"}'}, "confidence: expected a number"),
            ({"select": '{"region_xyxy": [0, 0, 10]}'}, "expected four numbers, x1 y1 x2 y2"),
            ({"select": '{"region_xyxy": [10, 0, 0, 10]}'}, "x1 < x2 and y1 < y2"),
            ({"select": '{"maximum": -1}'}, "expected a maximum of 0 or more"),
            ({"select": '{"maximum": 1.5}'}, "maximum: expected a whole number"),
            ({"select": 3}, "expected a string of JSON"),
            ({"confidence": "0.5"}, "give it in JSON in the parameter 'select'"),
        ],
    )
    def test_what_is_no_selection_is_refused_with_its_reason(
        self, client: Client, parameters: dict[str, Any], reason: str
    ) -> None:
        said = client.refusal(self.PICTURE, **parameters)
        assert reason in said
        assert image_error(said) is None

    def test_output_that_is_not_there_is_refused_by_name(self, client: Client) -> None:
        with pytest.raises(triton.InferenceServerException, match="'names'"):
            client.ask(self.PICTURE, ("names",))

    def test_priority_and_forwarded_headers_are_let_through(self, client: Client) -> None:
        assert client.detect(self.PICTURE, priority=1) == client.expected(self.PICTURE)
        assert client.ask(self.PICTURE, ("count",), **{"x-request-id": "abc"})["count"].tolist() == [192]


class TestDetector:
    @pytest.fixture(params=["grpc", "http"])
    def url(self, server: TritonServer, request: pytest.FixtureRequest) -> str:
        return server.grpc_url if request.param == "grpc" else server.http_url

    def test_finds_the_same_by_either_way(self, url: str) -> None:
        sources = [PICTURES[name] for name in ("jpeg", "png", "webp", "jpeg turned 6", "png of 16 bits")]
        with Detector(url, "plant") as by_pixels, Detector(url, "plant", send="encoded") as by_bytes:
            expected = [by_pixels.detect(source, 0.5) for source in sources]
            assert any(expected)
            assert [by_bytes.detect(source, 0.5) for source in sources] == expected
            assert by_bytes.detect_batch(sources, 0.5) == expected
            assert list(by_bytes.detect_many(sources * 20, 0.5)) == expected * 20
            assert (by_bytes.names, by_bytes.size, by_bytes.model) == (NAMES, SIZE_HW, "plant_jpeg")
            assert by_bytes.is_ready()

    @pytest.mark.parametrize("send", ["pixels", "encoded"])
    def test_selection_keeps_the_same_wherever_it_is_applied(self, url: str, send: str) -> None:
        sources = [PICTURES["jpeg"], PICTURES["png"], PICTURES["webp"]]
        selection = Selection(classes=("rot", "blue"), confidence=0.3, region_xyxy=(20, 10, 90, 70), maximum=4)
        with Detector(url, "plant", send=send) as detector:
            kept = [selection.apply(found) for found in detector.detect_batch(sources)]
            assert 0 < len(kept[1]) <= 4
            assert detector.detect_batch(sources, selection=selection) == kept
            assert [detector.detect(source, selection=selection) for source in sources] == kept
            assert list(detector.detect_many(sources * 5, selection=selection)) == kept * 5
            # The higher of the two thresholds holds.
            everything = detector.detect(sources[0], 0.0)
            tenth = float(everything.confidence[9])
            lower = Selection(confidence=tenth / 2)
            assert detector.detect(sources[0], tenth, selection=lower) == everything.filter(tenth)
            assert len(detector.detect(sources[0], selection=Selection(maximum=0))) == 0
            with pytest.raises(ValueError, match="no class 'gruen', the model has: rot, grün, blue"):
                detector.detect(sources[0], selection=Selection(classes=("gruen",)))

    def test_on_an_event_loop_it_is_the_same(self, url: str) -> None:
        async def found() -> tuple[Detections, list[Detections], Detections]:
            async with AsyncDetector(url, "plant", send="encoded") as detector:
                many = [each async for each in detector.detect_many([PICTURES["png"]] * 30)]
                surest = await detector.detect(PICTURES["png"], selection=Selection(maximum=1))
                return await detector.detect(PICTURES["png"]), many, surest

        with Detector(url, "plant") as detector:
            expected = detector.detect(PICTURES["png"])
        assert asyncio.run(found()) == (expected, [expected] * 30, Selection(maximum=1).apply(expected))

    def test_files_are_sent_as_they_are(self, url: str, tmp_path: Path) -> None:
        path = tmp_path / "picture.webp"
        path.write_bytes(PICTURES["webp"])
        with Detector(url, "plant", send="encoded") as detector:
            assert detector.detect(path) == detector.detect(str(path)) == detector.detect(PICTURES["webp"])

    def test_what_only_the_server_finds_is_an_image_error_too(self, url: str) -> None:
        cut = PICTURES["jpeg"][: len(PICTURES["jpeg"]) // 2]
        with Detector(url, "plant", send="encoded") as detector:
            with pytest.raises(ImageError, match=r"^encoded image of \d+ bytes: the image is truncated"):
                detector.detect(cut)
            with pytest.raises(ImageError, match=r"^image 1: encoded image of \d+ bytes: the image is truncated"):
                detector.detect_batch([PICTURES["png"], cut])
            with pytest.raises(ImageError, match="pixels are sent with"):
                detector.detect(np.zeros((9, 9, 3), np.uint8))
            with pytest.raises(ImageError, match="expected JPEG, PNG or WebP"):
                detector.detect(b"nothing")

    def test_model_without_the_ensemble_says_how_to_get_one(self, url: str) -> None:
        with pytest.raises(ModelNotFoundError, match="build 'plant_jpeg' with --encoded to have it"):
            Detector(url, "plant_jpeg", send="encoded")

    def test_ensemble_of_another_build_is_told(self, url: str) -> None:
        with pytest.raises(ContractError, match="was built for another version of 'stale'"):
            Detector(url, "stale", send="encoded")

    def test_arguments_that_contradict_each_other_are_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match="expected no version with encoded images, got 2"):
            Detector(url, "plant", version=2, send="encoded")
        with pytest.raises(ValueError, match="expected send to be one of 'pixels', 'encoded'"):
            Detector(url, "plant", send="telepathy")


def test_published_models_are_what_they_should_be(repository: Path, server: TritonServer) -> None:
    assert all(report.ok for report in verify(repository)), verify(repository)
    ours = [finding for finding in diagnose(repository) if finding.where.partition("/")[0] not in DETECTORS]
    assert ours == []
    assert {name: state for name, _, state in server.models()} == {
        f"{detector}{suffix}": "READY" for detector in DETECTORS for suffix in SUFFIXES
    }
