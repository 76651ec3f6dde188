"""The whole way: weights, build, a real tritonserver, a client, boxes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from builder import parity
from builder.manifest import read_manifest, record_of
from builder.server import TritonServer
from builder.verify import verify
from builder.weights import load_network
from clients import Detector
from tests.conftest import StartServer
from tests.networks import ASSETS, live_model, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "shapes"
BUILD_TIMEOUT_S = 600


def build(*flags: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "builder", "build", *map(str, flags)]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | environment,
        timeout=BUILD_TIMEOUT_S,
    )
    assert run.returncode == 0, run.stderr
    return run


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    model = live_model("yolo11n")
    model.names = {0: "person", 1: "bus", 2: "tie"}
    folder = tmp_path_factory.mktemp("run") / "weights"
    folder.mkdir()
    path = save_checkpoint(model, folder / "plant.pt")
    (path.parent.parent / "run.json").write_text(json.dumps(run_record(path)))
    return path


def run_record(weights: Path) -> dict[str, object]:
    """What a training that has written these weights leaves."""
    record = record_of(weights)
    return {
        "schema": "run/1",
        "name": "plant-7",
        "data": {"hash": "d" * 64, "names": ["person", "bus", "tie"], "train": 640, "val": 16},
        "start": {"model": "yolo11n.yaml"},
        "arguments": {"epochs": 20},
        "epochs": 20,
        "steps": 800,
        "best": {"epoch": 18.0, "metrics/mAP50-95(B)": 0.8125},
        "last": {"epoch": 20.0, "metrics/mAP50-95(B)": 0.8},
        "weights": {weights.name: {"bytes": record.size_bytes, "sha256": record.sha256}},
        "checkpoints": [],
        "versions": {"torch": "2.15.0"},
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def repository(weights: Path, cache: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "repository"
    common = ("--weights", weights, "--precision", "fp32", "--repository", folder, "--cache", cache)
    build(*common, "--gpu", "t4")
    build(*common, "--gpu", "t4", "--name", "plant_raw", "--head", "raw")
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, triton_server: StartServer) -> TritonServer:
    return triton_server(repository, config_name="cpu")


def test_published_version_leads_back_to_the_training(repository: Path, weights: Path) -> None:
    training = read_manifest(repository / "plant" / "1")["build"]["training"]
    assert training["name"] == "plant-7"
    assert training["weights"] == {"file": "plant.pt", "sha256": record_of(weights).sha256}
    (told,) = verify(repository, "plant")
    assert "trained in the run plant-7 on the data dddddddddddd (640 images), 20 epochs, mAP50-95 0.8125" in str(told)


def test_boxes_of_the_served_model_are_pytorchs(server: TritonServer, weights: Path) -> None:
    from clients.letterbox import letterbox

    network = load_network(weights)
    with Detector(server.grpc_url, "plant") as detector:
        assert detector.names == ("person", "bus", "tie")
        assert detector.size == (160, 160)
        for name in ("bus.jpg", "zidane.jpg"):
            import cv2

            image = cv2.imread(str(ASSETS / name))
            ours = detector.detect(image)
            pixels, box = letterbox(np.ascontiguousarray(image[..., ::-1]), (160, 160))
            reference = parity.torch_reference(network, pixels[None], 0.7, 300).detections[0]
            reference = reference[reference[:, 4] >= 0.25]
            reference[:, :4] = box.boxes_to_image(reference[:, :4])
            assert len(ours) == len(reference) > 0
            rows = np.column_stack([ours.xyxy, ours.confidence, ours.class_id])
            pairs = np.array(parity.matches(rows, reference))
            assert len(pairs) == len(reference)
            np.testing.assert_allclose(rows[pairs[:, 0], :5], reference[pairs[:, 1], :5], atol=0.5)
            np.testing.assert_allclose(rows[pairs[:, 0], 4], reference[pairs[:, 1], 4], atol=1e-3)


def test_a_batch_gives_what_single_images_give(server: TritonServer) -> None:
    images = [ASSETS / "bus.jpg", ASSETS / "zidane.jpg"] * 5
    with Detector(server.grpc_url, "plant") as detector:
        alone = [detector.detect(image) for image in images]
        together = detector.detect_batch(images)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a.xyxy, b.xyxy, atol=0.1)
        np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-3)


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_ultralytics_own_client_works_on_the_raw_head(server: TritonServer, weights: Path, scheme: str) -> None:
    from ultralytics import YOLO

    url = {"grpc": server.grpc_url, "http": server.http_url}[scheme]
    served = YOLO(f"{url}/plant_raw", task="detect")(ASSETS / "bus.jpg", imgsz=160, verbose=False)[0].boxes
    # rect=False: the served model takes one size, as the checkpoint does when told.
    local = YOLO(weights)(ASSETS / "bus.jpg", imgsz=160, rect=False, verbose=False)[0].boxes
    assert len(served) == len(local) > 0
    np.testing.assert_allclose(served.conf.numpy(), local.conf.numpy(), atol=1e-3)
    np.testing.assert_allclose(served.xyxy.numpy(), local.xyxy.numpy(), atol=0.5)


def test_the_largest_batch_is_warm_before_the_model_is_ready(server: TritonServer) -> None:
    client = triton.InferenceServerClient(server.grpc_url.removeprefix("grpc://"))
    config = client.get_model_config("plant", as_json=True)["config"]
    assert [w["name"] for w in config["model_warmup"]] == ["batch_1", "batch_8"]
    assert config["backend"] == "python"


def test_an_unchanged_rebuild_publishes_nothing(repository: Path, weights: Path, cache: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in repository.rglob("*")}
    common = ("--weights", weights, "--precision", "fp32", "--repository", repository, "--cache", cache)
    run = build(*common, "--gpu", "t4", "--json")
    done = json.loads(run.stdout)
    assert not done["changed"]
    assert all(stage["reused"] for stage in done["stages"])
    assert {p: p.stat().st_mtime_ns for p in repository.rglob("*")} == before


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    flags = ("--weights", SAMPLE / "shapes.pt", "--images", SAMPLE / "unseen.jpg", "--imgsz", 320)
    contents = []
    for seed in ("1", "2"):  # of Python's hashes, by which a set is ordered
        folder = tmp_path / seed
        build(*flags, "--repository", folder / "r", "--cache", folder / "c", PYTHONHASHSEED=seed)
        files = sorted(p for p in (folder / "r").rglob("*") if p.is_file())
        contents.append({str(p.relative_to(folder)): p.read_bytes() for p in files})
    assert "r/shapes/1/manifest.json" in contents[0]
    assert contents[0] == contents[1]


def test_nothing_published_names_the_building_machine(repository: Path, weights: Path) -> None:
    for file in (repository / "plant").rglob("*"):
        # Triton's embedded Python writes its bytecode beside model.py, whatever the environment says.
        if file.is_file() and file.parent.name != "__pycache__":
            content = file.read_bytes()
            for place in (str(weights.parent), str(ROOT), str(repository)):
                assert place.encode() not in content, (file, place)


def test_a_build_killed_at_any_moment_leaves_the_last_version_whole(weights: Path, tmp_path: Path) -> None:
    folder, cache = tmp_path / "r", tmp_path / "c"
    common = ("--weights", weights, "--precision", "fp32", "--repository", folder, "--cache", cache)
    build(*common)
    rng = np.random.default_rng(0)
    for i in range(8):
        process = subprocess.Popen(
            [sys.executable, "-m", "builder", "build", *map(str, common), "--max-queue-size", str(100 + i)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        time.sleep(rng.uniform(0.1, 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        (report,) = verify(folder)
        assert report.ok, str(report)
    build(*common, "--max-queue-size", 99)
    (report,) = verify(folder)
    assert report.ok
    assert not [p for p in (folder / "plant").iterdir() if p.name.startswith(".tmp")]


def test_two_builds_at_once_do_not_corrupt_each_other(weights: Path, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    common = ("--weights", weights, "--precision", "fp32", "--repository", folder, "--cache", cache)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "builder", "build", *map(str, common), "--max-queue-size", str(size)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for size in (50, 60, 70)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=BUILD_TIMEOUT_S)
        assert process.returncode == 0, errors
    (report,) = verify(folder)
    assert report.ok, str(report)
    assert sorted(p.name for p in (folder / "plant").iterdir() if p.name.isdigit()) == ["1", "2", "3"]


def test_a_new_version_is_what_a_restarted_server_serves(
    weights: Path, cache: Path, tmp_path: Path, triton_server: StartServer
) -> None:
    folder = tmp_path / "r"
    common = ("--weights", weights, "--precision", "fp32", "--repository", folder, "--cache", cache)
    build(*common)
    build(*common, "--iou", 0.3)
    server = triton_server(folder, config_name="cpu")
    assert [tuple(model) for model in server.models()] == [("plant", "2", "READY")]


def test_the_sample_finds_the_shapes_on_a_picture_that_it_has_not_seen(
    tmp_path: Path, triton_server: StartServer
) -> None:
    from tests.unit.examples.test_generate import generate

    build("--weights", SAMPLE / "shapes.pt", "--images", SAMPLE / "unseen.jpg", "--repository", tmp_path / "r")
    truth = generate.encoded_image(5, "unseen", 0, generate.Size(960, 720))[1]
    server = triton_server(tmp_path / "r", config_name="cpu")
    with Detector(server.grpc_url, "shapes") as detector:
        found = detector.detect(SAMPLE / "unseen.jpg", confidence=0.5)
    ours = np.column_stack([found.xyxy, found.confidence, found.class_id])
    theirs = np.array([[*box.xyxy, 1.0, box.class_id] for box in truth], np.float32)
    hits = (parity.overlaps(ours[:, :4], theirs[:, :4]) > 0.5) & (ours[:, None, 5] == theirs[None, :, 5])
    assert hits.any(0).mean() >= 0.85

    from ultralytics import YOLO

    local = YOLO(SAMPLE / "shapes.pt")(SAMPLE / "unseen.jpg", conf=0.5, imgsz=640, rect=False, verbose=False)[0].boxes
    reference = np.column_stack([local.xyxy.numpy(), local.conf.numpy(), local.cls.numpy()])
    # FP16 may move a confidence over the threshold.
    assert len(parity.matches(ours, reference)) >= max(len(ours), len(reference)) - 1
