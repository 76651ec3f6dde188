"""The client against a real tritonserver, on stand-ins for a detector whose right answers are known."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image

from builder.server import ServerOptions, TritonServer
from clients import (
    ClientError,
    ContractError,
    DeadlineExceededError,
    Detections,
    Detector,
    ImageError,
    InferenceError,
    ModelNotFoundError,
    ModelNotReadyError,
    ServerUnavailableError,
)
from tests.conftest import FreePorts, StartServer
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
PATIENT_S = 60
NAMES = ("rot", "grün", "blue")
COLOURS_BGR = ((0, 0, 255), (0, 255, 0), (255, 0, 0))
CONFIDENCES = (0.9, 0.6, 0.3)
SIZE_HW = (96, 128)

STAND_IN = '''
"""A stand-in for a detector: finds one rectangle each of pure red, green and blue, once "closed" is not there."""

import json
import pathlib
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.folder = pathlib.Path(args["model_repository"])

    def execute(self, requests):
        if (self.folder / "closed").exists():
            (self.folder / "entered").touch()
        while (self.folder / "closed").exists():
            time.sleep(0.005)
        time.sleep(float(self.parameters.get("delay_s", "0")))
        return [self.answer(pb_utils.get_input_tensor_by_name(each, "images").as_numpy()) for each in requests]

    def answer(self, images):
        if "error" in self.parameters:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(self.parameters["error"]))
        rows = np.zeros((len(images), 300, 6), np.float32)
        for image, found in zip(images, rows):
            count = 0
            for channel, confidence in enumerate((0.9, 0.6, 0.3)):
                others = [other for other in range(3) if other != channel]
                painted = (image[..., channel] > 127) & (image[..., others] < 64).all(axis=-1)
                ys, xs = np.nonzero(painted)
                if len(ys):
                    class_id = int(self.parameters.get("class_id", channel))
                    found[count] = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, confidence, class_id]
                    count += 1
        return pb_utils.InferenceResponse([pb_utils.Tensor("detections", rows)])
'''

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: {max_batch}
input {{ name: "images" data_type: TYPE_UINT8 dims: [{height}, {width}, 3] }}
output {{ name: "detections" data_type: TYPE_FP32 dims: [300, 6] }}
instance_group {{ kind: KIND_CPU count: 1 }}
dynamic_batching {{ {queue} }}
"""

RAW_CONFIG = """
name: "raw"
backend: "python"
max_batch_size: 4
input { name: "images" data_type: TYPE_FP32 dims: [3, 96, 128] }
output { name: "output0" data_type: TYPE_FP32 dims: [7, 252] }
instance_group { kind: KIND_CPU count: 1 }
parameters { key: "contract" value { string_value: "raw/1" } }
"""


def write_stand_in(repository: Path, name: str, config: str, **parameters: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(STAND_IN)
    texts = [
        f"parameters {{ key: {json.dumps(k)} value {{ string_value: {json.dumps(v)} }} }}\n"
        for k, v in parameters.items()
    ]
    (repository / name / "config.pbtxt").write_text(config + "".join(texts))


def write_detector(
    repository: Path,
    name: str,
    *,
    max_batch: int = 4,
    size_hw: tuple[int, int] = SIZE_HW,
    queue: str = "",
    **parameters: str,
) -> None:
    config = CONFIG.format(name=name, max_batch=max_batch, height=size_hw[0], width=size_hw[1], queue=queue)
    about = {"names": json.dumps(NAMES), "contract": "detections/1"}
    write_stand_in(repository, name, config, **about, **parameters)


@contextlib.contextmanager
def held(server: TritonServer, model: str) -> Iterator[Path]:
    """As long as this lasts, the model answers nothing; the file is there once a request has reached it."""
    folder = server.options.repository / model
    entered, closed = folder / "entered", folder / "closed"
    entered.unlink(missing_ok=True)
    closed.touch()
    try:
        yield entered
    finally:
        closed.unlink()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, triton_server: StartServer) -> TritonServer:
    repository = tmp_path_factory.mktemp("repository")
    write_detector(repository, "painted")
    write_detector(repository, "large", max_batch=32, size_hw=(640, 640))
    write_detector(repository, "late")
    write_detector(repository, "busy", max_batch=1, queue="default_queue_policy { max_queue_size: 1 }", delay_s="1")
    write_detector(repository, "failing", error="out of paint")
    write_detector(repository, "changed", class_id="99")
    write_detector(repository, "asleep")
    write_stand_in(repository, "raw", RAW_CONFIG)
    return triton_server(repository, models=("painted", "large", "late", "busy", "failing", "changed", "raw"))


@pytest.fixture(params=["grpc", "http"])
def url(server: TritonServer, request: pytest.FixtureRequest) -> str:
    return server.grpc_url if request.param == "grpc" else server.http_url


def picture(height: int, width: int, boxes: dict[int, tuple[int, int, int, int]]) -> np.ndarray:
    """A black BGR picture with rectangles by class."""
    image = np.zeros((height, width, 3), np.uint8)
    for class_id, (x1, y1, x2, y2) in boxes.items():
        image[y1:y2, x1:x2] = COLOURS_BGR[class_id]
    return image


def assert_found(
    found: Detections,
    boxes: dict[int, tuple[int, int, int, int]],
    image_hw: tuple[int, int],
    size_hw: tuple[int, int] = SIZE_HW,
) -> None:
    assert found.class_id.tolist() == sorted(boxes)
    # Resizing blurs an edge over about one pixel of the input on either side.
    tolerance = 1.01 + max(image_hw[0] / size_hw[0], image_hw[1] / size_hw[1])
    expected_xyxy = np.array([boxes[class_id] for class_id in sorted(boxes)]).reshape(-1, 4)
    np.testing.assert_allclose(found.xyxy, expected_xyxy, atol=tolerance)
    np.testing.assert_allclose(found.confidence, [CONFIDENCES[class_id] for class_id in sorted(boxes)], rtol=1e-6)


class TestDetect:
    @pytest.mark.parametrize(
        ("image_hw", "boxes"),
        [
            ((1080, 1920), {0: (200, 100, 800, 500), 1: (1000, 700, 1900, 1060)}),
            ((300, 200), {1: (20, 200, 180, 290), 2: (0, 0, 60, 90)}),
            ((60, 800), {0: (600, 12, 790, 48)}),
            ((96, 128), {0: (1, 2, 30, 40), 1: (50, 60, 128, 96), 2: (60, 0, 80, 20)}),
            ((20, 30), {0: (5, 5, 20, 15)}),
            ((1, 1), {0: (0, 0, 1, 1)}),
            ((200, 200), {}),
        ],
    )
    def test_boxes_come_in_the_images_own_pixels(
        self, url: str, image_hw: tuple[int, int], boxes: dict[int, tuple[int, int, int, int]]
    ) -> None:
        with Detector(url, "painted") as detector:
            assert_found(detector.detect(picture(*image_hw, boxes), 0.1), boxes, image_hw)

    def test_contract_is_read_from_the_server(self, url: str) -> None:
        with Detector(url, "painted", version=1) as detector:
            assert detector.model == "painted"
            assert detector.names == NAMES
            assert detector.size == SIZE_HW
            assert detector.max_batch_size == 4

    def test_confidence_leaves_out_what_is_less_certain(self, url: str) -> None:
        image = picture(96, 128, {0: (0, 0, 20, 20), 1: (30, 30, 50, 50), 2: (60, 60, 90, 90)})
        with Detector(url, "painted") as detector:
            for confidence, count in ((0.0, 3), (0.3, 3), (0.31, 2), (0.6, 2), (0.9, 1), (0.95, 0)):
                assert len(detector.detect(image, confidence)) == count
            assert len(detector.detect(image)) == 3
            for confidence in (-0.1, 1.1, float("nan")):
                with pytest.raises(ValueError, match="confidence from 0 to 1"):
                    detector.detect(image, confidence)

    def test_both_protocols_give_identical_results(self, server: TritonServer) -> None:
        image = picture(511, 733, {0: (100, 100, 333, 222), 1: (400, 300, 600, 500)})
        with Detector(server.grpc_url, "painted") as over_grpc, Detector(server.http_url, "painted") as over_http:
            assert over_grpc.detect(image) == over_http.detect(image)
            assert over_grpc.detect_batch([image] * 5) == over_http.detect_batch([image] * 5)

    def test_file_bytes_and_array_give_the_same_boxes(self, url: str, tmp_path: Path) -> None:
        image = picture(120, 80, {0: (10, 20, 40, 50)})
        path = tmp_path / "picture.png"
        cv2.imwrite(str(path), image)
        with Detector(url, "painted") as detector:
            expected = detector.detect(image)
            assert detector.detect(path) == detector.detect(str(path)) == detector.detect(path.read_bytes()) == expected

    def test_box_in_a_turned_picture_is_where_the_viewer_sees_it(self, url: str, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        stored = picture(100, 200, {0: (20, 60, 80, 90)})
        path = tmp_path / "turned.png"
        Image.fromarray(stored[:, :, ::-1].copy()).save(path, exif=exif)
        with Detector(url, "painted") as detector:
            assert_found(detector.detect(path), {0: (10, 20, 40, 80)}, (200, 100))


class TestDetectBatch:
    def test_images_of_any_size_are_answered_in_order(self, url: str) -> None:
        boxes = [{index % 3: (5, 10, 60 + 9 * index, 50 + index)} for index in range(10)]
        images = [picture(100 + 30 * index, 300 - 10 * index, box) for index, box in enumerate(boxes)]
        with Detector(url, "painted") as detector:
            results = detector.detect_batch(images)
            assert len(results) == 10
            for found, box, image in zip(results, boxes, images, strict=True):
                assert_found(found, box, image.shape[:2])
            assert results == [detector.detect(image) for image in images]

    def test_no_more_requests_are_sent_than_the_largest_batch_needs(self, server: TritonServer, url: str) -> None:
        def counted() -> tuple[int, int]:
            """Requests and images so far; the server counts an answer shortly after it has sent it."""
            last, now = None, statistics()
            while now != last:
                time.sleep(0.3)
                last, now = now, statistics()
            return now

        def statistics() -> tuple[int, int]:
            with triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
                stats = client.get_inference_statistics("painted").model_stats[0]
            return stats.inference_stats.success.count, stats.inference_count

        with Detector(url, "painted") as detector:
            requests, images = counted()
            detector.detect_batch([picture(50, 50, {})] * 10)
            # No more than these come, and they do come: however long it takes, it is not the end of the counting.
            wait_until(lambda: statistics() >= (requests + 3, images + 10))
            assert counted() == (requests + 3, images + 10)

    def test_nothing_in_nothing_out(self, url: str) -> None:
        with Detector(url, "painted") as detector:
            assert detector.detect_batch([]) == []

    def test_thirty_two_large_images_go_in_one_message(self, url: str) -> None:
        images = [picture(640, 640, {index % 3: (index, 2 * index, 300, 400)}) for index in range(32)]
        with Detector(url, "large") as detector:
            results = detector.detect_batch(images)
        for index, found in enumerate(results):
            assert found.xyxy.tolist() == [[index, 2 * index, 300, 400]]

    def test_bad_image_is_named_by_its_index(self, url: str) -> None:
        with Detector(url, "painted") as detector, pytest.raises(ImageError, match=r"^image 5: .*not an image"):
            detector.detect_batch([picture(9, 9, {})] * 5 + [b"<html>"])  # type: ignore[list-item]


def test_several_threads_share_one_detector(url: str) -> None:
    def detect(index: int) -> tuple[int, Detections]:
        box = (index, index, index + 40, 90)
        if index % 4:
            return index, detector.detect(picture(96, 128, {index % 3: box}))
        return index, detector.detect_batch([picture(96, 128, {index % 3: box})] * 2)[1]

    with Detector(url, "painted") as detector, ThreadPoolExecutor(8) as pool:
        for index, found in pool.map(detect, range(64)):
            assert found.xyxy.tolist() == [[index, index, index + 40, 90]]
            assert found.class_id.tolist() == [index % 3]


def detect_until_it_fails(detector: Detector) -> None:
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        detector.detect(picture(9, 9, {}))
        time.sleep(0.05)


class TestErrors:
    def check(self, error: ClientError, *parts: str) -> None:
        assert "\n" not in str(error)
        for part in parts:
            assert part in str(error)

    def test_missing_model_comes_with_those_there_are(self, url: str) -> None:
        with pytest.raises(ModelNotFoundError) as caught:
            Detector(url, "paint")
        self.check(
            caught.value, f"no model 'paint' at {url}, which has: asleep, busy, changed, failing, large, late, painted"
        )

    def test_missing_version_comes_with_those_there_are(self, url: str) -> None:
        with pytest.raises(ModelNotFoundError) as caught:
            Detector(url, "painted", version=7)
        self.check(caught.value, "has no version 7, it has: 1")

    @pytest.mark.parametrize("version", ["one", "0", "-1", "1.0", "²"])
    def test_version_that_is_no_number_is_refused(self, url: str, version: str) -> None:
        with pytest.raises(ValueError, match="version as a whole number"):
            Detector(url, "painted", version=version)

    def test_model_that_is_not_loaded_is_not_ready(self, url: str) -> None:
        with pytest.raises(ModelNotReadyError) as caught:
            Detector(url, "asleep")
        self.check(caught.value, "model 'asleep'", "is not ready")

    def test_model_that_is_unloaded_while_in_use_is_not_ready(self, server: TritonServer, url: str) -> None:
        with triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as control:
            control.load_model("asleep")
            with Detector(url, "asleep") as detector:
                assert len(detector.detect(picture(9, 9, {}))) == 0
                control.unload_model("asleep")
                # The server goes on answering for a moment after it has said that the model is unloaded.
                with pytest.raises(ModelNotReadyError) as caught:
                    detect_until_it_fails(detector)
        self.check(caught.value, "model 'asleep'", "is not ready: version 1 UN")

    def test_raw_head_is_refused_with_what_to_use(self, url: str) -> None:
        with pytest.raises(ContractError) as caught:
            Detector(url, "raw")
        self.check(caught.value, "--head detections", 'YOLO("grpc://HOST:PORT/raw")')

    def test_class_without_a_name_is_a_broken_contract(self, url: str) -> None:
        with Detector(url, "changed") as detector, pytest.raises(ContractError) as caught:
            detector.detect(picture(96, 128, {0: (0, 0, 50, 50)}))
        self.check(caught.value, "class numbers from 0 to 2, got 99")

    def test_error_of_the_model_is_passed_on(self, url: str) -> None:
        with Detector(url, "failing") as detector, pytest.raises(InferenceError) as caught:
            detector.detect(picture(9, 9, {}))
        self.check(caught.value, "out of paint", "'failing'", url)

    def test_late_answer_is_a_deadline(self, server: TritonServer, url: str) -> None:
        with Detector(url, "late", timeout_s=2) as detector, held(server, "late"):
            for _ in range(2):
                with pytest.raises(DeadlineExceededError) as caught:
                    detector.detect(picture(9, 9, {}))
                self.check(caught.value, f"no answer from {url} within 2 s")

    def test_full_queue_is_refused_and_the_rest_is_answered(self, server: TritonServer, url: str) -> None:
        def outcome() -> str:
            try:
                detector.detect(picture(9, 9, {}))
            except InferenceError as error:
                return str(error)
            return "answered"

        with Detector(url, "busy") as detector, ThreadPoolExecutor(6) as pool:
            with held(server, "busy"):
                calls = [pool.submit(outcome) for _ in range(6)]
                wait_until(lambda: any(map(Future.done, calls)))
            outcomes = [call.result() for call in calls]
        refused = [each for each in outcomes if each != "answered"]
        assert refused
        assert "answered" in outcomes
        assert all("Exceeds maximum queue size" in each for each in refused)

    def test_many_images_wait_for_a_full_queue(self, url: str) -> None:
        with Detector(url, "busy") as detector:
            found = list(detector.detect_many([picture(9, 9, {})] * 4, in_flight=4))
        assert [len(each) for each in found] == [0] * 4

    @pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
    def test_impossible_deadline_is_refused(self, url: str, timeout_s: float) -> None:
        with pytest.raises(ValueError, match="timeout_s in seconds above 0"):
            Detector(url, "painted", timeout_s=timeout_s)

    def test_port_of_the_other_protocol_is_one_clear_line(self, server: TritonServer) -> None:
        for mine, other in (("grpc", server.http_url), ("http", server.grpc_url)):
            with pytest.raises(ServerUnavailableError) as caught:
                Detector(f"{mine}://{other.partition('://')[2]}", "painted")
            self.check(caught.value, "does not speak", f"use {other}")

    @pytest.mark.parametrize(("scheme", "message"), [("http", "give its HTTP port"), ("grpc", "takes no requests")])
    def test_metrics_port_is_not_taken_for_a_model_of_another_contract(
        self, server: TritonServer, scheme: str, message: str
    ) -> None:
        with pytest.raises(ServerUnavailableError) as caught:
            Detector(f"{scheme}://127.0.0.1:{server.options.metrics_port}", "painted")
        self.check(caught.value, "metrics port", message)

    def test_closed_detector_says_so(self, url: str) -> None:
        detector = Detector(url, "painted")
        detector.detect(picture(9, 9, {}))
        detector.close()
        detector.close()
        with pytest.raises(ServerUnavailableError) as caught:
            detector.detect(picture(9, 9, {}))
        self.check(caught.value, "closed by close()")


def test_detector_survives_a_restart_of_the_server(tmp_path: Path, free_ports: FreePorts) -> None:
    write_detector(tmp_path / "repository", "painted")
    http_port, grpc_port, metrics_port = free_ports(3)
    options = ServerOptions(
        repository=tmp_path / "repository", http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port
    )
    image = picture(96, 128, {0: (10, 10, 50, 50)})
    with TritonServer(options) as server:
        detectors = [Detector(server.grpc_url, "painted"), Detector(server.http_url, "painted")]
        expected = [detector.detect(image) for detector in detectors]
    for detector in detectors:
        with pytest.raises(ServerUnavailableError, match="no server at"):
            detector.detect(image)
    with TritonServer(options):
        for detector, found in zip(detectors, expected, strict=True):
            assert _patiently(detector, image) == found
            detector.close()


def _patiently(detector: Detector, image: np.ndarray) -> Detections:
    """The first answer, however many attempts a channel lets pass before it connects again."""
    give_up = time.monotonic() + 20
    while True:
        try:
            return detector.detect(image)
        except ServerUnavailableError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)


class TestCommandLine:
    def run(self, url: str, *arguments: object, model: str = "painted") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "clients", "detect", *map(str, arguments), "--url", url, "--model", model],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )

    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        path = tmp_path / "picture.png"
        cv2.imwrite(str(path), picture(96, 128, {0: (10, 20, 30, 40), 1: (50, 60, 70, 80)}))
        return path

    def test_each_image_and_each_object_has_a_line(self, url: str, image: Path) -> None:
        result = self.run(url, image)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines() == [
            f"{image}: 128x96, 2 objects",
            "  rot 0.90  xyxy 10.0 20.0 30.0 40.0",
            "  grün 0.60  xyxy 50.0 60.0 70.0 80.0",
        ]

    def test_images_may_go_by_shared_memory(self, url: str, image: Path) -> None:
        result = self.run(url, image, "--send", "shared-memory")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == self.run(url, image).stdout

    def test_json_has_one_object_per_image_and_line(self, url: str, image: Path) -> None:
        result = self.run(url, image, image, "--json", "--confidence", 0.7)
        expected: dict[str, Any] = {"path": str(image), "width": 128, "height": 96}
        expected["detections"] = [{"class": "rot", "class_id": 0, "confidence": 0.9, "xyxy": [10.0, 20.0, 30.0, 40.0]}]
        assert [json.loads(line) for line in result.stdout.splitlines()] == [expected] * 2
        assert (result.returncode, result.stderr) == (0, "")

    def test_bad_image_does_not_stop_the_others(self, url: str, image: Path, tmp_path: Path) -> None:
        half = tmp_path / "half.png"
        half.write_bytes(image.read_bytes()[:100])
        result = self.run(url, image, tmp_path / "absent.png", half, image, "--json")
        assert result.returncode == 1
        assert len(result.stdout.splitlines()) == 2
        absent, truncated = result.stderr.splitlines()
        assert absent == f"error: {tmp_path / 'absent.png'}: no such file"
        assert truncated.startswith(f"error: {half}: the image is truncated")

    def test_annotated_pictures_are_saved_beside_nothing_else(self, url: str, image: Path, tmp_path: Path) -> None:
        twin = tmp_path / "other" / "picture.png"
        twin.parent.mkdir()
        twin.write_bytes(image.read_bytes())
        before = image.read_bytes()
        result = self.run(url, image, twin, "--save", tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert image.read_bytes() == before
        saved = [tmp_path / "picture-2.png", tmp_path / "picture-3.png"]
        assert [line for line in result.stdout.splitlines() if "saved" in line] == [f"  saved {path}" for path in saved]
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "other",
            "picture-2.png",
            "picture-3.png",
            "picture.png",
        ]
        assert np.any(cv2.imread(str(saved[0])) != cv2.imread(str(image)))

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ("absent", "no model 'absent'"),
            ("asleep", "is not ready"),
            ("raw", "--head detections"),
            ("failing", "out of paint"),
        ],
    )
    def test_problem_of_the_server_is_one_line(self, url: str, image: Path, model: str, message: str) -> None:
        result = self.run(url, image, image, model=model)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1

    def test_reader_that_has_enough_is_no_error_to_report(self, url: str, image: Path) -> None:
        command = [sys.executable, "-m", "clients", "detect", *[str(image)] * 50, "--url", url, "--model", "painted"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == ""
        assert process.returncode == 1

    def test_output_that_cannot_be_written_is_one_line(self, url: str, image: Path) -> None:
        command = [sys.executable, "-m", "clients", "detect", str(image), "--url", url, "--model", "painted"]
        with Path("/dev/full").open("w") as full:
            result = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert result.returncode == 1
        assert result.stderr == "error: cannot write the output: No space left on device\n"
