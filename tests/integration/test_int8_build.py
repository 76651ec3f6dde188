"""INT8 from the sample's weights to a published version, or to a refusal that leaves nothing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builder.cli import main
from builder.manifest import read_manifest

SHAPES = Path(__file__).parents[2] / "examples" / "shapes"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    arguments = ["--out", str(folder), "--train", "64", "--val", "24", "--size", "320x320"]
    subprocess.run([sys.executable, str(SHAPES / "generate.py"), *arguments], check=True, capture_output=True)
    return folder / "data.yaml"


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    # Of little contrast: from noise over the whole range, the ranges come out near those of real images.
    folder = tmp_path_factory.mktemp("noise")
    numbers = np.random.default_rng(0)
    for i in range(64):
        Image.fromarray(numbers.normal(127, 8, (320, 320, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def build(tmp_path_factory, data):
    """``build(repository, *flags)``: its exit code; one cache for all."""
    cache = tmp_path_factory.mktemp("cache")

    def run(repository, *flags):
        common = ["--weights", str(SHAPES / "shapes.pt"), "--imgsz", "320", "--precision", "int8"]
        where = ["--repository", str(repository), "--cache", str(cache)]
        given = [] if "--data" in flags else ["--data", str(data)]
        return main(["build", *common, *where, *given, "--calibration-images", "64", *map(str, flags)])

    return run


@pytest.fixture(scope="module")
def published(tmp_path_factory, build):
    repository = tmp_path_factory.mktemp("repository")
    assert build(repository, "--max-map-drop", 0.05) == 0
    return repository / "shapes" / "1"


def test_what_int8_costs_is_in_the_manifest_and_on_a_page(published):
    build = read_manifest(published)["build"]
    assert build["spec"]["precision"] == "int8"
    assert build["quantization"]["int8_share"] >= 0.8
    assert build["quantization"]["calibration"]["images"] == 64
    assert build["quantization"]["given_back"] == []
    accuracy = build["accuracy"]
    assert accuracy["failures"] == []
    assert accuracy["candidate"]["images"] == 24
    assert accuracy["reference"]["overall"]["map50_95"] > 0.5
    lost = accuracy["reference"]["overall"]["map50_95"] - accuracy["candidate"]["overall"]["map50_95"]
    assert lost == pytest.approx(accuracy["comparison"]["map_drop"]["map50_95"], abs=2e-6)
    assert lost <= 0.05
    assert "<html" in (published / "accuracy.html").read_text()


def test_an_unchanged_build_measures_nothing_again(published, build, capsys):
    assert build(published.parents[1], "--max-map-drop", 0.05, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert not told["changed"]
    assert [stage["name"] for stage in told["stages"] if not stage["reused"]] == []


def test_a_calibration_on_noise_is_refused_and_leaves_nothing(tmp_path, build, noise, capsys):
    assert build(tmp_path / "repository", "--calibration", noise) == 3
    told = capsys.readouterr().err
    assert "the int8 graph loses more accuracy than it may: mAP50-95 falls by" in told
    assert "worst classes: " in told
    assert "small" in told
    assert "--auto-mixed" in told
    assert not (tmp_path / "repository").exists()


def test_int8_without_labelled_images_is_refused(tmp_path, capsys):
    assert main(["build", "--weights", str(SHAPES / "shapes.pt"), "--precision", "int8"]) == 2
    assert "expected --data data.yaml" in capsys.readouterr().err


def test_a_calibration_for_fp16_is_refused(tmp_path, noise, capsys):
    flags = ["--weights", str(SHAPES / "shapes.pt"), "--repository", str(tmp_path), "--calibration", str(noise)]
    assert main(["build", *flags]) == 2
    assert "--calibration belongs to --precision int8" in capsys.readouterr().err


def test_data_of_other_classes_are_refused(tmp_path, build, data, capsys):
    other = data.with_name("other.yaml")
    other.write_text(data.read_text().replace("circle", "wheel"))
    assert build(tmp_path / "repository", "--data", other) == 2
    assert "wheel" in capsys.readouterr().err
    assert not (tmp_path / "repository").exists()
