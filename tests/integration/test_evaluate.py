"""Accuracy on the sample: against Ultralytics' own validator, and of a published and a served model."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder.errors import DataError, RepositoryError, ServerError
from builder.evaluate import add_arguments, run
from builder.pipeline import build
from builder.server import TritonServer
from builder.spec import BuildSpec
from tests.conftest import StartServer

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "examples" / "shapes"
WEIGHTS = SAMPLE / "shapes.pt"
IMGSZ, IMAGES = 320, 60


@pytest.fixture(scope="module")
def data_yaml(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    command = [sys.executable, SAMPLE / "generate.py", "--out", folder, "--train", 1, "--val", IMAGES, "--size", IMGSZ]
    subprocess.run([*map(str, command)], check=True, capture_output=True, timeout=120)
    return folder / "data.yaml"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def repository(cache: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "repository"
    for name, head in (("shapes", "detections"), ("shapes_raw", "raw")):
        flags = {"weights": WEIGHTS, "imgsz": IMGSZ, "precision": "fp32", "name": name, "head": head}
        images = [SAMPLE / "unseen.jpg"]
        build(
            BuildSpec.from_sources(flags | {"repository": folder, "cache": cache, "images": images}, None),
            lambda stage: None,
        )
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, triton_server: StartServer) -> TritonServer:
    return triton_server(repository, config_name="cpu", models=("shapes",))


def evaluated(capsys: pytest.CaptureFixture[str], *flags: object) -> dict[str, Any]:
    """What ``--json`` prints."""
    capsys.readouterr()
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert run(parser.parse_args([*map(str, flags), "--json"])) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_weights_score_what_ultralytics_own_validator_gives_them(data_yaml, cache, capsys, tmp_path):
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionValidator

    by_coco: dict[str, float] = {}

    class Recording(DetectionValidator):
        def eval_json(self, stats):
            by_coco.update(super().eval_json(stats))
            return stats

    options = {"data": str(data_yaml), "imgsz": IMGSZ, "device": "cpu", "workers": 0, "plots": False, "verbose": False}
    # By default it pads a square image by half a stride on each side; what is deployed takes images as they are.
    options |= {"rect": False, "batch": 8, "project": str(tmp_path), "name": "val", "save_json": True}
    theirs = YOLO(WEIGHTS).val(validator=Recording, **options).box
    ours = evaluated(capsys, "--data", data_yaml, "--weights", WEIGHTS, "--imgsz", IMGSZ, "--cache", cache)
    assert theirs.map > 0.7
    assert ours["overall"]["map50_95"] == pytest.approx(theirs.map, abs=0.003)
    assert ours["overall"]["map50"] == pytest.approx(theirs.map50, abs=0.005)
    for figures, of_class in zip(ours["classes"], theirs.maps, strict=True):
        assert figures["map50_95"] == pytest.approx(of_class, abs=0.006)
    # The same rules on the same boxes, those that lie over the edge clipped: nothing but rounding is left.
    for figures in ours["sizes"]:
        assert figures["map50_95"] == pytest.approx(by_coco[f"metrics/mAP_{figures['name']}(B)"], abs=0.001)


def test_a_published_raw_head_scores_what_its_weights_score(data_yaml, cache, repository, capsys):
    weights = evaluated(capsys, "--data", data_yaml, "--weights", WEIGHTS, "--imgsz", IMGSZ, "--cache", cache)
    published = evaluated(capsys, "--data", data_yaml, "--repository", repository, "--model", "shapes_raw")
    assert published["overall"] == weights["overall"]


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_served_model_scores_what_its_graph_scores(data_yaml, repository, server, capsys, scheme):
    url = {"grpc": server.grpc_url, "http": server.http_url}[scheme]
    served = evaluated(capsys, "--data", data_yaml, "--url", url, "--model", "shapes")
    graph = evaluated(capsys, "--data", data_yaml, "--repository", repository, "--model", "shapes")
    assert graph["overall"]["objects"] == served["overall"]["objects"] > 300
    assert graph["overall"]["map50_95"] > 0.7
    assert served["overall"]["map50_95"] == pytest.approx(graph["overall"]["map50_95"], abs=1e-3)
    assert served["overall"]["true_positives"] == pytest.approx(graph["overall"]["true_positives"], abs=1)


def test_onnxruntime_scores_what_openvino_scores(data_yaml, repository, capsys):
    flags = ("--data", data_yaml, "--repository", repository, "--model", "shapes", "--version", 1)
    openvino, onnxruntime = (evaluated(capsys, *flags, "--runtime", each) for each in ("openvino", "onnxruntime"))
    assert onnxruntime["overall"]["map50_95"] == pytest.approx(openvino["overall"]["map50_95"], abs=1e-3)


def test_unreadable_images_are_named_and_left_out(data_yaml, repository, tmp_path, capsys):
    folder = tmp_path / "torn"
    shutil.copytree(data_yaml.parent, folder)
    first, second, *_ = sorted((folder / "images/val").iterdir())
    first.write_bytes(first.read_bytes()[:1000])
    second.write_bytes(b"")
    report = evaluated(capsys, "--data", folder / "data.yaml", "--repository", repository, "--model", "shapes")
    assert report["images"] == IMAGES - 2
    assert report["unreadable"] == ["images/val/000000.jpg", "images/val/000001.jpg"]


def test_classes_that_differ_from_the_datas_are_refused(data_yaml, repository, server, cache, tmp_path, capsys):
    folder = tmp_path / "other"
    shutil.copytree(data_yaml.parent, folder)
    other = folder / "data.yaml"
    other.write_text(other.read_text().replace("star", "cross").replace("3: cross", "3: star"))
    for subject in (
        ("--weights", WEIGHTS, "--imgsz", IMGSZ, "--cache", cache),
        ("--repository", repository, "--model", "shapes"),
        ("--url", server.grpc_url, "--model", "shapes"),
    ):
        with pytest.raises(DataError, match="class 3 is 'star' in the data and 'cross' in the model"):
            evaluated(capsys, "--data", other, *subject)


def test_a_graph_that_was_changed_after_it_was_published_is_refused(data_yaml, repository, tmp_path, capsys):
    copied = tmp_path / "repository"
    shutil.copytree(repository, copied)
    with (copied / "shapes/1/model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(RepositoryError, match=r"not what was published: model\.onnx: expected \d+ bytes"):
        evaluated(capsys, "--data", data_yaml, "--repository", copied, "--model", "shapes")


def test_a_server_that_is_not_there_or_lacks_the_model_is_one_error(data_yaml, server, free_ports, capsys):
    (port,) = free_ports(1)
    with pytest.raises(ServerError, match="no server at"):
        evaluated(capsys, "--data", data_yaml, "--url", f"grpc://127.0.0.1:{port}", "--model", "shapes")
    with pytest.raises(ServerError, match="circles"):
        evaluated(capsys, "--data", data_yaml, "--url", server.grpc_url, "--model", "circles")
