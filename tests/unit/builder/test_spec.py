from __future__ import annotations

from pathlib import Path

import pytest

from builder.artifacts import Head, Precision
from builder.errors import SpecError
from builder.spec import BuildSpec


def spec(**flags: object) -> BuildSpec:
    return BuildSpec.from_sources(flags, None)


def test_defaults() -> None:
    default = spec()
    assert default.weights == Path("yolo11n.pt")
    assert (default.precision, default.head, default.imgsz) == (Precision.FP16, Head.DETECTIONS, None)
    assert default.model_name == "yolo11n"


@pytest.mark.parametrize(
    ("given", "size"), [("640", (640, 640)), ("384,640", (384, 640)), (320, (320, 320)), ([96, 64], (96, 64))]
)
def test_imgsz_is_one_side_or_height_and_width(given: object, size: tuple[int, int]) -> None:
    assert spec(imgsz=given).imgsz == size


def test_flags_win_over_yaml_and_yaml_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "build.yaml"
    path.write_text("gpu: l4\nmax-batch: 16\nprecision: fp32\nimgsz: [384, 640]\nnames: [a, b]\n")
    merged = BuildSpec.from_sources({"precision": "fp16"}, path)
    assert (merged.gpu, merged.max_batch, merged.precision) == ("l4", 16, Precision.FP16)
    assert (merged.imgsz, merged.names) == ((384, 640), ("a", "b"))


def test_paths_in_yaml_are_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"x")
    (tmp_path / "build.yaml").write_text("weights: w.pt\nrepository: repo\nimages: [a.jpg]\n")
    merged = BuildSpec.from_sources({}, tmp_path / "build.yaml")
    assert merged.weights == tmp_path / "w.pt"
    assert merged.repository == tmp_path / "repo"
    assert merged.images == (tmp_path / "a.jpg",)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"precision": "int4"}, "--precision"),
        ({"imgsz": "abc"}, "--imgsz"),
        ({"imgsz": "1,2,3"}, "--imgsz"),
        ({"imgsz": 31}, "--imgsz"),
        ({"max_batch": 0}, "--max-batch"),
        ({"iou": 1.5}, "--iou"),
        ({"candidates": 5000}, "--candidates"),
        ({"name": "../evil"}, "--name"),
        ({"weights": "model.tflite"}, ".pt or .onnx"),
    ],
)
def test_a_value_out_of_its_range_names_the_flag(flags: dict[str, object], expected: str) -> None:
    with pytest.raises(SpecError, match=expected) as caught:
        spec(**flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("precison: fp16\n", "did you mean precision"),
        ("- a\n- b\n", "expected names and values"),
        ("gpu: [unclosed\n", "is no YAML"),
        ("max_batch: many\n", "--max-batch"),
    ],
)
def test_a_wrong_yaml_is_one_line(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "build.yaml").write_text(content)
    with pytest.raises(SpecError, match=expected) as caught:
        BuildSpec.from_sources({}, tmp_path / "build.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_yaml_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        BuildSpec.from_sources({}, tmp_path / "none.yaml")
