"""What Ultralytics' own ONNX exports, as users have them, become: fixed batches, untrained, suppressed in the graph."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from builder import onnx_weights
from builder.artifacts import NetworkOutput
from builder.dynamic_batch import BatchError, prove_same, with_dynamic_batch
from builder.errors import WeightsError
from builder.onnx_weights import import_onnx
from tests.networks import live_model, photographs, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PIXELS = np.ascontiguousarray(photographs(160).transpose(0, 3, 1, 2), np.float32) / 255


def export(family: str, folder: Path, **arguments: object) -> Path:
    from ultralytics import YOLO

    checkpoint = save_checkpoint(live_model(family), folder / f"{family}.pt")
    options = {"format": "onnx", "imgsz": 160, "verbose": False} | arguments
    return Path(shutil.move(YOLO(checkpoint).export(**options), folder / "exported.onnx"))


def run(path: Path, pixels: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pixels})[0]


@pytest.mark.parametrize("family", ["yolov8n", "yolo11n", "yolo12n"])
@pytest.mark.parametrize("batch", [1, 8])
def test_an_export_for_a_fixed_batch_takes_any_batch_and_computes_the_same(
    family: str, batch: int, tmp_path: Path
) -> None:
    exported = export(family, tmp_path, batch=batch)
    network, note = import_onnx(exported, None, None, tmp_path / "network.onnx")
    assert f"fixed batch of {batch}" in note
    filled = np.resize(PIXELS, (batch, *PIXELS.shape[1:]))
    first = run(exported, filled)[0]
    second = run(exported, np.roll(filled, -1, axis=0) if batch > 1 else PIXELS[1:])[0]
    for pictures, expected in (
        (PIXELS, [first, second]),
        (np.stack([*PIXELS[::-1], PIXELS[1]]), [second, first, second]),
    ):
        np.testing.assert_allclose(run(network.path, pictures), expected, rtol=1e-6, atol=1e-6)
    assert not np.allclose(first, second)


@pytest.mark.parametrize("family", ["yolov10n", "yolo26n"])
def test_a_fixed_export_with_finished_detections_takes_any_batch(family: str, tmp_path: Path) -> None:
    exported = export(family, tmp_path, nms=False)
    assert run(exported, PIXELS[:1]).shape == (1, 300, 6)
    network, _ = import_onnx(exported, None, ("a", "b", "c"), tmp_path / "network.onnx")
    assert network.output is NetworkOutput.DETECTIONS
    np.testing.assert_allclose(run(network.path, PIXELS)[1], run(exported, PIXELS[1:])[0], rtol=1e-6, atol=1e-6)


def test_an_untrained_network_has_its_batch_freed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    exported = Path(YOLO("yolov8n.yaml").export(format="onnx", imgsz=96, verbose=False))
    network, note = import_onnx(exported, None, None, tmp_path / "network.onnx")
    assert "fixed batch of 1" in note
    assert run(network.path, np.zeros((3, 3, 96, 96), np.float32)).shape == (3, 84, 189)


def test_a_dynamic_export_is_left_as_it_is(tmp_path: Path) -> None:
    network, note = import_onnx(export("yolov8n", tmp_path, dynamic=True), None, None, tmp_path / "network.onnx")
    assert note == ""
    assert run(network.path, PIXELS).shape[0] == 2


def test_a_graph_that_mixes_its_batch_is_refused(tmp_path: Path) -> None:
    exported = export("yolov8n", tmp_path, batch=2)
    model = onnx.load(exported)
    # The pictures of a batch come to look at each other: their mean is added to what each of them gives.
    output = model.graph.output[0].name
    model.graph.node[-1].output[0] = "own"
    model.graph.node.append(onnx.helper.make_node("ReduceMean", ["own", "first"], ["shared"], keepdims=1))
    model.graph.node.append(onnx.helper.make_node("Add", ["own", "shared"], [output]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "first"))
    onnx.save(model, exported)
    out = tmp_path / "network.onnx"
    with pytest.raises(WeightsError, match=r"fixed batch of 2.*in a batch of 1 the results differ.*dynamic=True"):
        import_onnx(exported, None, None, out)
    assert not out.exists()


def test_a_constant_for_each_picture_is_refused(tmp_path: Path) -> None:
    model = onnx.load(export("yolov8n", tmp_path, batch=2))
    output = model.graph.output[0].name
    model.graph.node[-1].output[0] = "own"
    model.graph.node.append(onnx.helper.make_node("Add", ["own", "each"], [output]))
    each = np.array([1, 2], np.float32).reshape(2, 1, 1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(each, "each"))
    with pytest.raises(BatchError, match="a batch of 1 gives"):
        prove_same(model, with_dynamic_batch(model))


def test_suppression_in_the_graph_is_refused_at_once(tmp_path: Path) -> None:
    exported, out = export("yolov8n", tmp_path, nms=True), tmp_path / "network.onnx"
    with pytest.raises(WeightsError, match=r"NonMaxSuppression.*nms=False: this project attaches its own"):
        import_onnx(exported, None, None, out)
    assert not out.exists()
    assert set(onnx_weights._SUPPRESSION) <= {node.op_type for node in onnx.load(exported).graph.node}


def test_a_fixed_export_is_built_for_larger_batches(tmp_path: Path) -> None:
    exported = export("yolov8n", tmp_path, batch=8)
    places = ("--repository", tmp_path / "repository", "--cache", tmp_path / "cache", "--name", "plant")
    flags = ("--weights", exported, "--gpu", "t4", "--max-batch", 16, "--precision", "fp32", *places)
    command = [sys.executable, "-m", "builder", "build", *map(str, flags)]
    built = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
    assert built.returncode == 0, built.stderr
    served = tmp_path / "repository" / "plant" / "1" / "model.onnx"
    images = np.resize(photographs(160), (16, 160, 160, 3))
    found = run(served, images)
    assert found.shape == (16, 300, 6)
    np.testing.assert_allclose(found[2:4], found[:2], rtol=1e-5, atol=1e-3)
