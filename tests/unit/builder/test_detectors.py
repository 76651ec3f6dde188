"""Graphs in process: boxes in the image's own pixels, in the order of the images, and no image left out unsaid."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from builder.detectors import GraphDetector, Runtime, graph_detector
from builder.errors import ExportError

SIDE = 8
RUNTIMES = list(Runtime)


def write_image(path: Path, grey: int, height: int = SIDE, width: int = SIDE) -> Path:
    assert cv2.imwrite(str(path), np.full((height, width, 3), grey, np.uint8))
    return path


def write_graph(path: Path, batch: int | str = "B", output: str = "detections") -> Path:
    """``images`` UINT8 [B, SIDE, SIDE, 3] -> one row: the box 2 2 6 6, the mean grey as confidence, class 1."""
    values = SIDE * SIDE * 3
    weights = np.zeros((values, 6), np.float32)
    weights[:, 4] = 1 / (255 * values)
    bias = np.array([2, 2, 6, 6, 0, 1], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["row"]),
            helper.make_node("Unsqueeze", ["row", "one"], [output]),
        ],
        "mean",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, 1, 6])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(bias, "bias"),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("batch", ["B", 1, 3])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_images_come_back_in_their_order_whatever_the_batch(tmp_path, runtime, batch):
    greys = list(range(10, 250, 5))
    paths = [write_image(tmp_path / f"{grey}.png", grey) for grey in greys]
    detections = list(graph_detector(write_graph(tmp_path / "model.onnx", batch), runtime)(paths))
    assert [each.path for each in detections] == paths
    for grey, each in zip(greys, detections, strict=True):
        np.testing.assert_allclose(each.rows_N6, [[2, 2, 6, 6, grey / 255, 1]], rtol=1e-4)


def test_boxes_are_in_the_images_own_pixels_and_clipped_to_it(tmp_path):
    # Twice as wide as high: letterboxed to 8 by 4 with 2 rows of grey above and below.
    path = write_image(tmp_path / "a.png", 200, height=20, width=40)
    (found,) = graph_detector(write_graph(tmp_path / "model.onnx"))([path])
    assert found.image_hw == (20, 40)
    np.testing.assert_allclose(found.rows_N6[0, :4], [10, 0, 30, 20], atol=1e-4)


def test_an_unreadable_image_is_named_and_the_others_are_detected(tmp_path):
    good = write_image(tmp_path / "good.png", 100)
    torn = tmp_path / "torn.png"
    torn.write_bytes(good.read_bytes()[:40])
    found = list(graph_detector(write_graph(tmp_path / "model.onnx"))([good, torn, tmp_path / "none.png", good]))
    assert [bool(each.problem) for each in found] == [False, True, True, False]
    assert "torn.png" in found[1].problem
    assert "none.png: no such file" in found[2].problem
    assert [len(each.rows_N6) for each in found] == [1, 0, 0, 1]


def test_rows_that_are_hardly_confident_are_left_out(tmp_path):
    black = write_image(tmp_path / "black.png", 0)
    (found,) = graph_detector(write_graph(tmp_path / "model.onnx"))([black])
    assert found.rows_N6.shape == (0, 6)


def test_few_images_are_read_ahead(tmp_path):
    paths = [write_image(tmp_path / "a.png", 100)] * 500
    inferred = []

    def infer(image_HWC):
        inferred.append(image_HWC.shape)
        return np.zeros((1, 6), np.float32)

    detector = GraphDetector(size_hw=(SIDE, SIDE), raw=False, infer=infer, workers=2)
    stream = detector(paths)
    next(stream)
    stream.close()
    assert 1 <= len(inferred) <= 20


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_another_graph_is_refused_by_what_it_has(tmp_path, runtime):
    with pytest.raises(ExportError, match=r"expected a graph that python -m builder build wrote.* and boxes"):
        graph_detector(write_graph(tmp_path / "model.onnx", output="boxes"), runtime)


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ExportError, match="does not run in openvino"):
        graph_detector(tmp_path / "model.onnx")
