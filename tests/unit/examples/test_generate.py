"""The sample's generator: reproducible, labelled as Ultralytics reads it, and clean about bad requests."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

SAMPLE = Path(__file__).resolve().parents[3] / "examples" / "shapes"


def _load_generator():
    spec = importlib.util.spec_from_file_location("shapes_generate", SAMPLE / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = _load_generator()


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return shared / (areas - shared)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "data"
    assert generate.main(["--out", str(out), "--train", "6", "--val", "3", "--seed", "7", "--size", "320x256"]) == 0
    return out


@pytest.fixture(scope="module")
def scenes():
    size = generate.Size(640, 640)
    return [generate.draw_image(np.random.default_rng([1, index]), size) for index in range(25)]


def test_same_seed_gives_same_bytes_and_another_seed_none_of_them(dataset, tmp_path):
    request = ["--train", "6", "--val", "3", "--size", "320x256"]
    generate.main(["--out", str(tmp_path / "same"), *request, "--seed", "7"])
    generate.main(["--out", str(tmp_path / "other"), *request, "--seed", "8"])
    assert _digests(tmp_path / "same") == _digests(dataset)
    images = {digest for name, digest in _digests(dataset).items() if name.endswith(".jpg")}
    others = {digest for name, digest in _digests(tmp_path / "other").items() if name.endswith(".jpg")}
    assert len(images) == len(others) == 9
    assert not images & others


def test_an_image_does_not_depend_on_how_many_are_made(dataset, tmp_path):
    generate.main(["--out", str(tmp_path / "d"), "--train", "2", "--val", "1", "--seed", "7", "--size", "320x256"])
    few, many = _digests(tmp_path / "d"), _digests(dataset)
    assert few.items() <= many.items()


def test_the_layout_is_ultralytics_and_can_be_moved(dataset):
    data = yaml.safe_load((dataset / "data.yaml").read_text())
    assert data == {"train": "images/train", "val": "images/val", "names": dict(enumerate(generate.CLASS_NAMES))}
    for split, count in (("train", 6), ("val", 3)):
        images = sorted(path.stem for path in (dataset / data[split]).glob("*.jpg"))
        labels = sorted(path.stem for path in (dataset / "labels" / split).glob("*.txt"))
        assert images == labels
        assert len(images) == count
    image = cv2.imread(str(dataset / "images" / "train" / "000000.jpg"))
    assert image.shape == (256, 320, 3)


def test_labels_lie_in_the_image_and_name_known_classes(dataset):
    seen = 0
    for path in dataset.glob("labels/*/*.txt"):
        for line in path.read_text().splitlines():
            class_id, *parts = line.split()
            x, y, width, height = map(float, parts)
            assert 0 <= int(class_id) < len(generate.CLASS_NAMES)
            assert min(width, height) > 0
            assert x - width / 2 >= -1e-6
            assert y - height / 2 >= -1e-6
            assert x + width / 2 <= 1 + 1e-6
            assert y + height / 2 <= 1 + 1e-6
            seen += 1
    assert seen >= 9


def test_every_class_and_every_size_occurs_and_shapes_overlap(scenes):
    boxes = [box for _, shown in scenes for box in shown]
    sides = np.array([max(x2 - x1, y2 - y1) for x1, y1, x2, y2 in (box.xyxy for box in boxes)])
    assert {box.class_id for box in boxes} == set(range(len(generate.CLASS_NAMES)))
    assert (sides < 32).mean() > 0.15
    assert ((sides >= 32) & (sides < 96)).mean() > 0.15
    assert (sides >= 96).mean() > 0.1
    assert all(1 <= len(shown) <= 25 for _, shown in scenes)
    overlapping = sum(
        any(_iou(one.xyxy, two.xyxy) > 0.1 for i, one in enumerate(shown) for two in shown[i + 1 :])
        for _, shown in scenes
    )
    assert overlapping >= len(scenes) // 4


def test_a_box_is_tight_around_the_pixels_of_its_shape():
    rng = np.random.default_rng(3)
    for name, outline in generate.OUTLINES.items():
        canvas = np.zeros((200, 200, 3), dtype=np.float32)
        owner = np.full((200, 200), -1, dtype=np.int32)
        corners = generate._placed(rng, outline, 70.0, np.array([99.3, 101.7]))
        x1, y1, x2, y2 = generate._add_shape(rng, canvas, owner, [], corners)
        rows, columns = np.nonzero(owner == 0)
        assert max(x2 - x1, y2 - y1) == pytest.approx(70)
        drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        # A sharp corner may cover less than half of its last pixels.
        assert (x1, y1, x2, y2) == pytest.approx(drawn, abs=2.5), name


def test_a_shape_that_would_hide_another_is_left_out():
    rng = np.random.default_rng(0)
    canvas = np.zeros((100, 100, 3), dtype=np.float32)
    owner = np.full((100, 100), -1, dtype=np.int32)
    areas = []
    square = np.array([(30, 30), (70, 30), (70, 70), (30, 70)], dtype=float)
    assert generate._add_shape(rng, canvas, owner, areas, square) is not None
    before = canvas.copy()
    assert generate._add_shape(rng, canvas, owner, areas, square + 5) is None
    assert np.array_equal(canvas, before)
    assert generate._add_shape(rng, canvas, owner, areas, square + 30) is not None


def test_the_committed_unseen_image_is_what_its_command_makes():
    jpeg, boxes = generate.encoded_image(5, "unseen", 0, generate.Size(960, 720))
    made = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    committed = cv2.imread(str(SAMPLE / "unseen.jpg"))
    assert (SAMPLE / "unseen.jpg").stat().st_size <= 150_000
    assert committed.shape == (720, 960, 3)
    assert len(boxes) == 21
    # Another version of OpenCV may round differently; the scene is the same.
    assert np.abs(made.astype(int) - committed).mean() < 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--train", "-3"], "-3"),
        (["--val", "0"], "'0'"),
        (["--train", "many"], "'many'"),
        (["--seed", "-1"], "-1"),
        (["--size", "0"], "'0'"),
        (["--size", "640x"], "'640x'"),
        (["--size", "99999"], "'99999'"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_a_bad_argument_gets_one_line_and_writes_nothing(tmp_path, capsys, arguments, reason):
    with pytest.raises(SystemExit) as stopped:
        generate.main(["--out", str(tmp_path / "d"), *arguments])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert reason in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["folder", "file"])
def test_an_occupied_target_is_left_as_it_was(tmp_path, capsys, target):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = _digests(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        generate.main(["--out", str(tmp_path / target), "--train", "1", "--val", "1", "--size", "64"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert _digests(tmp_path) == before


def test_a_target_below_a_file_gets_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        generate.main(["--out", str(tmp_path / "file" / "d"), "--train", "1", "--val", "1", "--size", "64"])
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "cannot write" in message
    assert message.count("\n") == 1


def test_an_empty_target_folder_is_filled(tmp_path):
    out = tmp_path / "d"
    out.mkdir()
    assert generate.main(["--out", str(out), "--train", "1", "--val", "1", "--size", "64"]) == 0
    assert (out / "data.yaml").is_file()


def test_a_failure_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    real, calls = generate.encoded_image, []

    def fails_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(28, os.strerror(28))
        return real(*arguments)

    monkeypatch.setattr(generate, "encoded_image", fails_at_the_third)
    with pytest.raises(SystemExit) as stopped:
        generate.main(["--out", str(tmp_path / "d"), "--train", "4", "--val", "1", "--size", "64"])
    assert stopped.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_runs_from_any_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, SAMPLE / "generate.py", "--image", "one.jpg", "--size", "96x64"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert cv2.imread(str(tmp_path / "one.jpg")).shape == (64, 96, 3)
