"""Data sets are read as Ultralytics reads them, and what it would leave out is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from ultralytics.data.utils import img2label_paths, verify_image_label

from builder.dataset import check_names, label_path, read_data, read_folder, read_split
from builder.errors import DataError
from builder.labels import read_labels

NAMES = "names: [cat, dog, cow]\n"


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((20, 30, 3), 90, np.uint8))
    return path


def write_yaml(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"


def write_data(folder: Path, labels: dict[str, str | None], text: str = f"val: images/val\n{NAMES}") -> Path:
    """A data set of one split; None: no label file."""
    for name, content in labels.items():
        write_image(folder / "images/val" / f"{name}.png")
        (folder / "labels/val").mkdir(parents=True, exist_ok=True)
        if content is not None:
            (folder / "labels/val" / f"{name}.txt").write_text(content)
    return write_yaml(folder, text)


def test_boxes_are_corners_as_fractions_and_images_are_sorted(tmp_path):
    data = read_split(write_data(tmp_path, {"b": "1 0.5 0.5 0.2 0.4\n0 0.25 0.5 0.5 1\n", "a": "2 0.5 0.5 1 1"}), "val")
    assert [image.path.name for image in data.images] == ["a.png", "b.png"]
    assert data.names == ("cat", "dog", "cow")
    assert data.images[1].classes_N.tolist() == [1, 0]
    np.testing.assert_allclose(data.images[1].boxes_N4, [[0.4, 0.3, 0.6, 0.7], [0, 0, 0.5, 1]])


@pytest.mark.parametrize("content", [None, "", "\n  \n"])
def test_an_image_without_labels_is_background(tmp_path, content):
    (image,) = read_split(write_data(tmp_path, {"a": content}), "val").images
    assert image.classes_N.shape == (0,)
    assert image.boxes_N4.shape == (0, 4)


LABELS = {
    "box": "0 0.5 0.5 0.2 0.2",
    "byte-order mark": "\ufeff0 0.5 0.5 0.2 0.2",
    "two equal lines": "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2",
    "polygon": "1 0.1 0.2 0.5 0.3 0.4 0.9\n0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2",
    "polygons of one box": "1 0 0 0.5 0 0.5 0.5 0 0.5\n1 0 0.1 0.5 0 0.4 0.5 0.2 0.2",
    "class as a float": "2.0 0.5 0.5 0.2 0.2",
    "over the edge by less than the tolerance": "0 1.005 0.5 0.2 0.2",
    "below 0 by less than the tolerance": "0 -0.005 0.5 0.2 0.2",
    "reaching out of the image": "0 0.05 0.5 0.5 0.2",
    "no area": "0 0.5 0.5 0 0",
    "class out of range": "3 0.5 0.5 0.2 0.2",
    "class below 0": "-1 0.5 0.5 0.2 0.2",
    "class and a half": "1.5 0.5 0.5 0.2 0.2",
    "box outside": "0 1.5 0.5 0.2 0.2",
    "box in pixels": "0 120 80 30 40",
    "negative width": "0 0.5 0.5 -0.005 0.2",
    "four numbers": "0 0.5 0.5 0.2",
    "six numbers": "0 0.5 0.5 0.2 0.2 0.9",
    "a word": "cat 0.5 0.5 0.2 0.2",
    "not a number": "0 nan 0.5 0.2 0.2",
    "boxes and polygons": "0 0.5 0.5 0.2 0.2\n0 0.1 0.1 0.2 0.1 0.2 0.2",
    "polygon with half a corner": "0 0.1 0.1 0.2 0.1 0.2 0.2 0.3",
}


@pytest.mark.parametrize("text", LABELS.values(), ids=LABELS.keys())
def test_labels_are_accepted_refused_and_read_as_ultralytics_does(tmp_path, text):
    image, labels = write_image(tmp_path / "a.png"), tmp_path / "a.txt"
    labels.write_text(text, encoding="utf-8")
    _, theirs, *_, message = verify_image_label((str(image), str(labels), "", False, 3, 0, 0, False))
    if theirs is None:
        with pytest.raises(DataError, match=r"a\.txt"):
            read_labels(labels, classes=3)
        return
    ours = read_labels(labels, classes=3)
    half = theirs[:, 3:] / 2
    expected = np.concatenate([theirs[:, 1:3] - half, theirs[:, 1:3] + half], axis=1).clip(0, 1)
    rows = np.column_stack([ours.classes_N, ours.boxes_N4])
    assert sorted(map(tuple, rows.round(5))) == sorted(
        map(tuple, np.column_stack([theirs[:, 0], expected]).astype(np.float64).round(5))
    )
    assert ("duplicate" in message) == (ours.duplicates > 0)


def test_a_wrong_label_is_named_by_file_and_line(tmp_path):
    source = write_data(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n\n7 0.5 0.5 0.2 0.2\n"})
    with pytest.raises(DataError, match=r"labels/val/a\.txt, line 3: class 7 is out of range: the data has 3 classes"):
        read_split(source, "val")


def test_keypoints_of_a_data_set_of_poses_are_dropped(tmp_path):
    text = f"val: images/val\nkpt_shape: [2, 3]\n{NAMES}"
    line = "1 0.5 0.5 0.2 0.4 0.4 0.4 2 0.6 0.6 1"
    (image,) = read_split(write_data(tmp_path, {"a": line}, text), "val").images
    np.testing.assert_allclose(image.boxes_N4, [[0.4, 0.3, 0.6, 0.7]])


def test_repeated_lines_are_counted_over_the_split(tmp_path):
    line = "0 0.5 0.5 0.2 0.2\n"
    data = read_split(write_data(tmp_path, {"a": line * 3, "b": line * 2}), "val")
    assert data.duplicates == 3
    assert [len(image.boxes_N4) for image in data.images] == [1, 1]


@pytest.mark.parametrize("path", ["x/images/a.jpg", "images/x/images/v/a.b.PNG", "plain/a.webp", "x/myimages/a.jpg"])
def test_labels_lie_where_ultralytics_looks(path):
    absolute = Path(os.sep, "data", path)
    assert str(label_path(absolute)) == img2label_paths([str(absolute)])[0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names: [a, b]", ("a", "b")),
        ("names: {1: b, 0: a}", ("a", "b")),
        ("names: {'0': a, '1': yes}", ("a", "True")),
        ("nc: 2", ("class_0", "class_1")),
    ],
)
def test_names_are_a_list_a_dictionary_or_a_count(tmp_path, names, expected):
    assert read_split(write_data(tmp_path, {"a": None}, f"val: images/val\n{names}\n"), "val").names == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("val: images/val", "expected the class names"),
        ("val: images/val\nnames: []", "expected the class names"),
        ("val: images/val\nnames: {0: a, 2: b}", "without a gap, got 0, 2"),
        ("val: images/val\nnames: {a: b}", "whole numbers before the class names"),
        ("val: images/val\nnames: [a]\nnc: 3", "differ"),
        ("val: images/nowhere\nnames: [a]", "points nowhere.*images/nowhere"),
        ("val: 3\nnames: [a]", "to be a path or a list of paths"),
        ("val: images/val\npath: [a]\nnames: [a]", "'path:' to be a folder"),
        ("val: images/val\nkpt_shape: 3\nnames: [a]", "kpt_shape"),
        ("train: images/val\nnames: [a]", "it has: train"),
        ("- a\n- b", "holds list"),
        ("val: [images", "is no YAML"),
    ],
)
def test_a_wrong_yaml_is_refused_in_one_line(tmp_path, text, message):
    source = write_data(tmp_path, {"a": None}, text)
    with pytest.raises(DataError, match=message) as caught:
        read_split(source, "val")
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_split_is_refused(tmp_path):
    (tmp_path / "images/val").mkdir(parents=True)
    (tmp_path / "images/val/notes.txt").write_text("no image")
    with pytest.raises(DataError, match="the split 'val' is empty"):
        read_split(write_yaml(tmp_path, f"val: images/val\n{NAMES}"), "val")


def test_a_source_that_is_not_there_is_refused(tmp_path):
    for read in (lambda: read_data(tmp_path / "data.yaml", "val"), lambda: read_folder(tmp_path / "images")):
        with pytest.raises(DataError, match="nothing there"):
            read()


@pytest.mark.parametrize("path", ["..", "../set", "{absolute}"])
def test_path_is_relative_to_the_yamls_folder(tmp_path, path, monkeypatch):
    monkeypatch.chdir("/")
    folder = tmp_path / "set"
    write_data(folder, {"a": "0 0.5 0.5 0.2 0.2"})
    where = "set/images/val" if path == ".." else "images/val"
    text = f"path: {path.format(absolute=folder)}\nval: {where}\n{NAMES}"
    assert len(read_split(write_yaml(tmp_path / "yamls", text), "val").images) == 1


def test_path_may_be_relative_to_the_working_folder_as_for_ultralytics(tmp_path, monkeypatch):
    write_data(tmp_path / "set", {"a": None})
    monkeypatch.chdir(tmp_path)
    source = write_yaml(tmp_path / "elsewhere", f"path: set\nval: images/val\n{NAMES}")
    assert len(read_split(source, "val").images) == 1


def test_roboflows_parent_folder_is_understood(tmp_path):
    write_image(tmp_path / "valid/images/a.png")
    source = write_yaml(tmp_path, f"val: ../valid/images\n{NAMES}")
    assert [image.path.name for image in read_split(source, "val").images] == ["a.png"]


def test_a_split_may_be_several_folders_and_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "one", {"a": "0 0.5 0.5 0.2 0.2"})
    write_data(tmp_path / "two/deep", {"b": "1 0.5 0.5 0.2 0.2"})
    write_data(tmp_path / "three", {"c": "2 0.5 0.5 0.2 0.2", "d": None})
    (tmp_path / "three/list.txt").write_text("./images/val/c.png\n\nthree/images/val/missing.jpg\n")
    text = f"val: [one/images/val, two, three/list.txt]\n{NAMES}"
    data = read_split(write_yaml(tmp_path, text), "val")
    assert [image.path.name for image in data.images] == ["a.png", "c.png", "missing.jpg", "b.png"]
    assert [image.classes_N.tolist() for image in data.images] == [[0], [2], [], [1]]


def test_a_folder_has_images_and_no_labels(tmp_path):
    write_data(tmp_path, {"a": "0 0.5 0.5 0.2 0.2", "b": None})
    (tmp_path / "images/val/c.JPG").write_bytes(b"not an image: it is listed, and whoever reads it says so")
    data = read_data(tmp_path, "val")
    assert [image.path.name for image in data.images] == ["a.png", "b.png", "c.JPG"]
    assert data.split is None
    assert data.names == ()
    assert all(image.classes_N is None for image in data.images)


def test_classes_of_another_model_are_refused(tmp_path):
    data = read_split(write_data(tmp_path, {"a": None}), "val")
    check_names(data, ("cat", "dog", "cow"))
    with pytest.raises(DataError, match=r"the data has 3 classes .* the model 2"):
        check_names(data, ("cat", "dog"))
    with pytest.raises(DataError, match="class 1 is 'dog' in the data and 'cow' in the model"):
        check_names(data, ("cat", "cow", "dog"))
    check_names(read_folder(tmp_path), ("anything",))
