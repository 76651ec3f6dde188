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
    assert (merged.gpu, merged.max_batch, merged.precision) == (("l4",), 16, Precision.FP16)
    assert (merged.imgsz, merged.names) == ((384, 640), ("a", "b"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is not the YAML's."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def from_yaml(tmp_path: Path, content: str) -> BuildSpec:
    (tmp_path / "build.yaml").write_text(content)
    return BuildSpec.from_sources({}, Path("..") / "build.yaml")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("there", [True, False])
def test_paths_in_yaml_are_relative_to_its_folder(tmp_path: Path, there: bool) -> None:
    if there:
        for name in ("w.pt", "net.yaml", "a.jpg"):
            (tmp_path / name).touch()
    merged = from_yaml(
        tmp_path, "weights: w.pt\nmodel: net.yaml\nrepository: repo\ncache: c\nimages: [a.jpg, b/c.jpg]\n"
    )
    assert (merged.weights, merged.model) == (Path("../w.pt"), "../net.yaml")
    assert (merged.repository, merged.cache) == (Path("../repo"), Path("../c"))
    assert merged.images == (Path("../a.jpg"), Path("../b/c.jpg"))


@pytest.mark.usefixtures("elsewhere")
def test_weights_in_the_current_folder_are_not_taken_for_the_yamls(tmp_path: Path) -> None:
    Path("w.pt").touch()
    Path("sub").mkdir()
    Path("sub/yolo11n.pt").touch()
    assert from_yaml(tmp_path, "weights: w.pt\n").weights == Path("../w.pt")
    assert from_yaml(tmp_path, "weights: sub/yolo11n.pt\n").weights == Path("../sub/yolo11n.pt")


@pytest.mark.usefixtures("elsewhere")
def test_a_name_that_ultralytics_may_know_stays_one_where_no_such_file_is(tmp_path: Path) -> None:
    merged = from_yaml(tmp_path, "weights: yolo11n.pt\nmodel: yolo11n.yaml\n")
    assert (merged.weights, merged.model) == (Path("yolo11n.pt"), "yolo11n.yaml")
    (tmp_path / "yolo11n.pt").touch()
    (tmp_path / "yolo11n.yaml").touch()
    merged = from_yaml(tmp_path, "weights: yolo11n.pt\nmodel: yolo11n.yaml\n")
    assert (merged.weights, merged.model) == (Path("../yolo11n.pt"), "../yolo11n.yaml")


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(("key", "name"), [("weights", "yolo11n.pt"), ("model", "yolo11n.yaml")])
def test_a_name_that_would_be_found_in_the_current_folder_is_refused(tmp_path: Path, key: str, name: str) -> None:
    Path(name).touch()
    with pytest.raises(SpecError, match=rf"{key}: {name} is not in \.\., but in the current folder.* --{key} {name}"):
        from_yaml(tmp_path, f"{key}: {name}\n")


@pytest.mark.usefixtures("elsewhere")
def test_one_image_needs_no_list(tmp_path: Path) -> None:
    assert from_yaml(tmp_path, "images: a.jpg\n").images == (Path("../a.jpg"),)
    assert spec(images=Path("a.jpg")).images == (Path("a.jpg"),)


@pytest.mark.usefixtures("elsewhere")
def test_names_may_be_numbered_as_ultralytics_writes_them(tmp_path: Path) -> None:
    assert from_yaml(tmp_path, "names:\n  1: b\n  0: a\n").names == ("a", "b")
    assert from_yaml(tmp_path, "names: {0: a, 1: b}\n").names == ("a", "b")


def test_the_record_of_a_request_has_no_folder_of_this_machine() -> None:
    assert spec(model="/home/me/nets/mine.yaml").model_dump(mode="json")["model"] == "mine.yaml"
    assert spec().model_dump(mode="json")["model"] is None


def test_a_wrong_imgsz_is_told_once() -> None:
    with pytest.raises(SpecError) as caught:
        spec(imgsz="abc")
    expected = "--imgsz: expected one side or height,width in pixels, such as 640 or 384,640; it was 'abc'"
    assert str(caught.value) == expected
    with pytest.raises(SpecError) as caught:
        spec(imgsz=31)
    assert str(caught.value).count("--imgsz") == 1


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"precision": "int4"}, "--precision"),
        ({"imgsz": "abc"}, "--imgsz"),
        ({"imgsz": "1,2,3"}, "--imgsz"),
        ({"imgsz": 31}, "--imgsz"),
        ({"max_batch": 0}, "--max-batch"),
        ({"encoded": True, "head": "raw"}, "--encoded: expected --head detections, got raw"),
        ({"iou": 1.5}, "--iou"),
        ({"candidates": 5000}, "--candidates"),
        ({"names": {0: "a", 2: "b"}}, "--names: expected class names numbered 0, 1, 2, … without gaps; it was"),
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
        ("max_batch: 4\nmax_batch: 8\n", "max_batch stands twice"),
        ("triton: 26.09\n", "--triton: expected a release in quotes"),
        ("gpu: 5\n", "--gpu: expected a GPU's name or a list of names"),
        ("gpu: {t4: 1}\n", "--gpu: expected a GPU's name or a list of names"),
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


def test_yes_is_no_limit(tmp_path: Path) -> None:
    (tmp_path / "build.yaml").write_text("max_map_drop: yes\n")
    with pytest.raises(SpecError, match="--max-map-drop: expected a value, it is yes"):
        BuildSpec.from_sources({}, tmp_path / "build.yaml")


@pytest.mark.parametrize("flag", ["max_map_drop", "max_confidence_drop"])
def test_a_limit_without_data_to_judge_by_is_refused(flag: str) -> None:
    with pytest.raises(SpecError, match=f"--{flag.replace('_', '-')} is a limit of the gate"):
        BuildSpec.from_sources({flag: "0.1"}, None)


def test_data_for_fp32_has_nothing_to_judge() -> None:
    with pytest.raises(SpecError, match="--precision fp32 loses nothing"):
        BuildSpec.from_sources({"data": "data.yaml", "precision": "fp32"}, None)
