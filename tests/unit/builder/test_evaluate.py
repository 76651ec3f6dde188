"""The command line of an evaluation: what is refused before anything is computed, and what is printed."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from builder.accuracy import ImageDetections, measure
from builder.dataset import DataImage, DataSplit
from builder.errors import DataError, RepositoryError, SpecError
from builder.evaluate import add_arguments, run, table

SAMPLE = Path(__file__).resolve().parents[3] / "examples" / "shapes"


def parse(*flags: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([*map(str, flags)])


@pytest.fixture
def data_yaml(tmp_path) -> Path:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images/a.jpg").write_bytes((SAMPLE / "unseen.jpg").read_bytes())
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("val: images\nnames: [circle, triangle, square, cross, star]\n")
    return tmp_path / "data.yaml"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "expected what to evaluate"),
        (("--url", "grpc://127.0.0.1:1"), "expected what to evaluate"),
        (("--weights", "a.pt", "--model", "shapes"), "--model belongs to a repository or a server"),
        (("--weights", "a.pt", "--version", 2), "--version belongs to"),
        (("--model", "shapes", "--imgsz", 320), "--imgsz belongs to --weights"),
        (("--url", "grpc://127.0.0.1:1", "--model", "a", "--trust-weights"), "--trust-weights belongs to --weights"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(data_yaml, flags, message):
    with pytest.raises(SpecError, match=message):
        run(parse("--data", data_yaml, *flags))


def test_data_is_read_before_the_model_is_looked_for(tmp_path):
    with pytest.raises(DataError, match="nothing there"):
        run(parse("--data", tmp_path / "data.yaml", "--weights", tmp_path / "none.pt"))


def test_a_model_that_is_not_in_the_repository_is_refused(data_yaml, tmp_path):
    with pytest.raises(RepositoryError, match=r"expected a model at .*shapes"):
        run(parse("--data", data_yaml, "--repository", tmp_path, "--model", "shapes"))
    with pytest.raises(RepositoryError, match=r"expected version 3 in .*shapes, found none"):
        run(parse("--data", data_yaml, "--repository", tmp_path, "--model", "shapes", "--version", 3))


def test_a_table_has_a_row_for_all_for_each_size_and_for_each_class():
    none = np.zeros((0, 6), np.float32)
    boxes_N4 = np.array([[0.0, 0.0, 0.1, 0.1]])
    data = DataSplit(
        source=Path("data.yaml"),
        split="val",
        names=("circle", "star"),
        images=tuple(
            DataImage(path=Path(name), classes_N=np.array([0]), boxes_N4=boxes_N4) for name in ("a.jpg", "b.jpg")
        ),
        duplicates=4,
    )
    right = np.array([[0, 0, 10, 10, 0.9, 0], [50, 50, 60, 60, 0.8, 1]], np.float32)
    report = measure(
        data,
        [
            ImageDetections(path=Path("a.jpg"), image_hw=(100, 100), rows_N6=right),
            ImageDetections(path=Path("b.jpg"), image_hw=(0, 0), rows_N6=none, problem="b.jpg: the file is empty"),
        ],
    )
    lines = table(report, "shapes 1")
    assert lines[0] == "shapes 1"
    assert lines[1] == "data.yaml, val: 1 images, 1 objects"
    assert "4 label lines that repeat another were left out" in lines
    assert "warning: 1 of 2 images cannot be read and count for nothing: b.jpg: the file is empty" in lines
    rows = {line.split()[0]: line.split()[1:] for line in lines[5:11]}
    assert rows == {
        "all": ["1", "1.000", "1.000", "0.500", "1.000", "0.667"],
        "small": ["1", "1.000", "1.000", "-", "-", "-"],
        "medium": ["0", "-", "-", "-", "-", "-"],
        "large": ["0", "-", "-", "-", "-", "-"],
        "circle": ["1", "1.000", "1.000", "1.000", "1.000", "1.000"],
        "star": ["0", "-", "-", "0.000", "-", "0.000"],
    }
    assert lines[-1].startswith("precision, recall and F1 at confidence 0.25 and IoU 0.5")
