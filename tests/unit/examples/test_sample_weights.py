"""The committed sample checkpoint: small, safe to load, silent about where it was trained, and right on real pixels."""

import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest
import torch

SAMPLE = Path(__file__).resolve().parents[3] / "examples" / "shapes"
WEIGHTS = SAMPLE / "shapes.pt"


def _load_generator():
    spec = importlib.util.spec_from_file_location("shapes_generate", SAMPLE / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = _load_generator()


@pytest.fixture(scope="module")
def checkpoint():
    return torch.load(WEIGHTS, map_location="cpu", weights_only=False)


def test_the_checkpoint_is_at_most_three_megabytes():
    assert 1_000_000 < WEIGHTS.stat().st_size <= 3_000_000


def test_its_pickle_names_only_layers_of_torch_and_ultralytics():
    names = torch.serialization.get_unsafe_globals_in_checkpoint(WEIGHTS)
    strangers = [name for name in names if not name.startswith(("torch.nn.modules.", "ultralytics.nn."))]
    assert strangers == []
    assert len(names) <= 21


def test_it_holds_a_stripped_detection_model_with_the_generators_classes(checkpoint):
    model = checkpoint["model"]
    assert type(model).__name__ == "DetectionModel"
    assert model.names == dict(enumerate(generate.CLASS_NAMES))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert checkpoint["train_args"]["task"] == "detect"
    assert checkpoint["train_args"]["imgsz"] == 640
    for field in ("optimizer", "ema", "git", "date"):
        assert checkpoint[field] is None


def test_it_names_no_path():
    with zipfile.ZipFile(WEIGHTS) as archive:
        (pickle_name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        pickled = archive.read(pickle_name)
    for folder in (b"/home", b"/root", b"/tmp", b"/work", b"site-packages", b"runs/"):
        assert folder not in pickled


def test_it_finds_the_shapes_of_the_unseen_image():
    from ultralytics import YOLO

    detector = YOLO(WEIGHTS)
    assert detector.task == "detect"
    result = detector.predict(SAMPLE / "unseen.jpg", imgsz=640, conf=0.5, device="cpu", verbose=False)[0]
    found = [(int(c), box) for c, box in zip(result.boxes.cls.tolist(), result.boxes.xyxy.tolist(), strict=True)]
    _, shown = generate.encoded_image(5, "unseen", 0, generate.Size(960, 720))

    def iou(a, b):
        shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
        return shared / (sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared)

    right = sum(
        any(class_id == box.class_id and iou(xyxy, box.xyxy) > 0.6 for class_id, xyxy in found) for box in shown
    )
    assert right >= 0.85 * len(shown)
    # Two crosses of nearly one colour lie on each other there, and are found more than once.
    assert len(found) <= len(shown) + 4
