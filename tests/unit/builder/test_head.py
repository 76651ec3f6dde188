"""The head in the graph against independent implementations.

Tensor suffixes: B batch, K candidates, A anchors, C classes, R bins per side.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.utils.nms import non_max_suppression

from builder import head_modules
from builder.artifacts import CpuPrecision, Head
from builder.export import export_module
from builder.head import HeadSpec
from builder.head_modules import ITERATIONS, greedy_keep, suppression_matrix
from builder.runtimes import runtimes
from tests.networks import photographs

IOU = 0.7


def greedy_nms(boxes_K4: np.ndarray, classes_K: np.ndarray, iou: float = IOU) -> np.ndarray:
    """Bool [K]: greedy NMS as its definition says, box by box, for boxes sorted by confidence: the reference."""
    x1, y1, x2, y2 = boxes_K4.T
    area = (x2 - x1) * (y2 - y1)
    keep = np.ones(len(boxes_K4), bool)
    for i in range(len(boxes_K4)):
        if not keep[i]:
            continue
        width = np.clip(np.minimum(x2[i], x2[i + 1 :]) - np.maximum(x1[i], x1[i + 1 :]), 0, None)
        height = np.clip(np.minimum(y2[i], y2[i + 1 :]) - np.maximum(y1[i], y1[i + 1 :]), 0, None)
        intersection = width * height
        with np.errstate(invalid="ignore", divide="ignore"):
            overlap = intersection / (area[i] + area[i + 1 :] - intersection)
        keep[i + 1 :] &= ~((overlap > iou) & (classes_K[i + 1 :] == classes_K[i]))
    return keep


def in_graph(boxes_BK4: np.ndarray, classes_BK: np.ndarray, iou: float = IOU) -> np.ndarray:
    """Bool [B, K]: what the graph's arithmetic keeps."""
    matrix = suppression_matrix(torch.from_numpy(boxes_BK4), torch.from_numpy(classes_BK), iou)
    return greedy_keep(matrix).numpy().astype(bool)


def box_sets(kind: str, count: int, boxes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """FP32 boxes [B, K, 4] sorted by confidence, and classes [B, K]."""
    rng = np.random.default_rng(seed)
    shape = (count, boxes)
    classes = rng.integers(0, 3, shape).astype(np.float32)
    size = rng.uniform(20, 60, (*shape, 2))
    centre = rng.uniform(0, 640, (*shape, 2))
    if kind == "dense":
        centre, classes = rng.uniform(0, 150, (*shape, 2)), np.zeros(shape, np.float32)
    elif kind == "objects":
        # As a detector gives them: many near copies of each of a few objects.
        objects = rng.uniform(0, 640, (count, 20, 2))
        sizes = rng.uniform(20, 200, (count, 20, 2))
        which = rng.integers(0, 20, shape)
        take = np.arange(count)[:, None]
        centre = objects[take, which] + rng.normal(0, 4, (*shape, 2))
        size = sizes[take, which] * rng.uniform(0.85, 1.15, (*shape, 2))
    elif kind == "one heap":
        centre, size = 320 + rng.normal(0, 15, (*shape, 2)), rng.uniform(80, 120, (*shape, 2))
        classes = np.zeros(shape, np.float32)
    elif kind == "identical":
        centre, size = np.full((*shape, 2), 320.0), np.full((*shape, 2), 50.0)
    elif kind == "degenerate":
        size[:, ::3] = 0  # points and lines: their IoU is 0/0
        size[:, 1::7, 0] = 0
        centre = np.round(centre / 40) * 40
    elif kind == "grid":
        # Equal boxes on a grid have overlaps of a few equal values, the threshold among them: 3/17 of 10 px steps.
        centre, size = np.round(rng.uniform(0, 200, (*shape, 2)) / 10) * 10, np.full((*shape, 2), 60.0)
    boxes_BK4 = np.concatenate([centre - size / 2, centre + size / 2], -1).astype(np.float32)
    return boxes_BK4, classes


@pytest.mark.parametrize("kind", ["spread", "dense", "objects", "one heap", "identical", "degenerate", "grid"])
@pytest.mark.parametrize("iou", [0.45, 0.7])
def test_suppression_keeps_the_very_boxes_of_greedy_nms(kind: str, iou: float) -> None:
    for seed, (count, boxes) in enumerate([(200, 60), (40, 300), (10, 512)]):
        boxes_BK4, classes_BK = box_sets(kind, count, boxes, seed)
        ours = in_graph(boxes_BK4, classes_BK, iou)
        for b in range(count):
            assert np.array_equal(ours[b], greedy_nms(boxes_BK4[b], classes_BK[b], iou)), (kind, seed, b)


def test_the_reference_agrees_with_torchvision() -> None:
    for kind in ("dense", "objects", "grid", "degenerate"):
        boxes_BK4, _ = box_sets(kind, 20, 200, seed=9)
        scores = torch.linspace(1, 0.1, 200)
        for boxes_K4 in boxes_BK4:
            kept = torchvision.ops.nms(torch.from_numpy(boxes_K4), scores, IOU)
            assert np.array_equal(np.flatnonzero(greedy_nms(boxes_K4, np.zeros(200))), np.sort(kept.numpy()))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(0, 25)] * 2, st.integers(0, 1)), min_size=1, max_size=60
    ),
    st.sampled_from([0.1, 0.45, 0.5, 0.7, 0.9]),
)
def test_suppression_equals_greedy_on_adversarial_integers(
    rows: list[tuple[int, int, int, int, int]], iou: float
) -> None:
    table = np.array(rows, np.float32)
    boxes_K4 = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], 1)
    assert np.array_equal(in_graph(boxes_K4[None], table[None, :, 4], iou)[0], greedy_nms(boxes_K4, table[:, 4], iou))


def chain(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in a row, each overlapping only its neighbours by more than the threshold, sorted along the row."""
    x = np.arange(length, dtype=np.float32) * 10
    boxes_K4 = np.stack([x, np.zeros_like(x), x + 60, np.full_like(x, 50)], 1)
    return boxes_K4, np.zeros(length, np.float32)


@pytest.mark.parametrize("length", [2, 3, 10, ITERATIONS, ITERATIONS + 1])
def test_chains_up_to_the_bound_are_settled(length: int) -> None:
    boxes_K4, classes_K = chain(length)
    kept = greedy_nms(boxes_K4, classes_K)
    assert list(kept) == [i % 2 == 0 for i in range(length)]
    assert np.array_equal(in_graph(boxes_K4[None], classes_K[None])[0], kept)


@pytest.mark.parametrize("length", [ITERATIONS + 2, 100, 300])
def test_past_the_bound_nothing_is_lost_that_greedy_keeps(length: int) -> None:
    boxes_K4, classes_K = chain(length)
    ours, greedy = in_graph(boxes_K4[None], classes_K[None])[0], greedy_nms(boxes_K4, classes_K)
    assert np.array_equal(ours[: ITERATIONS + 1], greedy[: ITERATIONS + 1])
    assert ours[greedy].all()
    assert ITERATIONS % 2 == 0


def logits(seed: int, classes: int = 3, anchors: int = 525, reg_max: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.randn(2, 4 * reg_max, anchors, generator=generator) * 2
    return boxes, torch.randn(2, classes, anchors, generator=generator) * 2 - 2


SPEC = HeadSpec(
    head=Head.DETECTIONS, imgsz=(160, 160), strides=(8, 16, 32), reg_max=16, classes=3, nms_free=False, candidates=525
)


def ultralytics_detections(spec: HeadSpec, boxes: torch.Tensor, scores: torch.Tensor) -> list[np.ndarray]:
    """Ultralytics' own Detect head decodes, Ultralytics' own NMS suppresses."""
    from ultralytics.nn.modules.head import Detect

    detect = Detect(nc=spec.classes, reg_max=spec.reg_max, ch=(16, 16, 16)).eval()
    detect.stride = torch.tensor([float(s) for s in spec.strides])
    levels = [torch.zeros(2, 16, spec.imgsz[0] // s, spec.imgsz[1] // s) for s in spec.strides]
    prediction = detect._inference({"boxes": boxes, "scores": scores, "feats": levels})
    return [rows.detach().numpy() for rows in non_max_suppression(prediction, 0.01, spec.iou, max_det=300)]


@pytest.mark.parametrize("seed", range(5))
def test_head_gives_what_ultralytics_decoding_and_nms_give(seed: int) -> None:
    boxes, scores = logits(seed)
    ours = head_modules.GreedyHead(SPEC)(boxes, scores).numpy()
    for padded, expected in zip(ours, ultralytics_detections(SPEC, boxes, scores), strict=True):
        rows = padded[padded[:, 4] > 0.01]
        assert len(expected) > 50
        assert rows.shape == expected.shape
        np.testing.assert_allclose(rows, expected, atol=2e-3)


def test_rows_are_sorted_and_unused_rows_are_zero() -> None:
    boxes, scores = logits(0)
    spec = HeadSpec(**{f: getattr(SPEC, f) for f in SPEC.__slots__} | {"iou": 0.05})
    rows = head_modules.GreedyHead(spec)(boxes, scores)
    confidence = rows[..., 4]
    assert rows.shape == (2, 300, 6)
    assert (confidence.diff(dim=1) <= 0).all()
    unused = rows[confidence == 0]
    assert len(unused) > 0
    assert (unused == 0).all()


def test_rectangular_input_puts_boxes_where_ultralytics_does() -> None:
    spec = HeadSpec(**{f: getattr(SPEC, f) for f in SPEC.__slots__} | {"imgsz": (96, 224), "candidates": 512})
    boxes, scores = logits(3, anchors=spec.anchors)
    rows = head_modules.GreedyHead(spec)(boxes, scores)[0].numpy()
    expected = ultralytics_detections(spec, boxes, scores)[0]
    np.testing.assert_allclose(rows[rows[:, 4] > 0.01], expected, atol=2e-3)


def test_nms_free_head_gives_what_ultralytics_top_k_gives() -> None:
    from ultralytics.nn.modules.head import Detect

    spec = HeadSpec(**{f: getattr(SPEC, f) for f in SPEC.__slots__} | {"nms_free": True, "reg_max": 1})
    boxes, scores = logits(1, reg_max=1)
    boxes = boxes.abs()
    detect = Detect(nc=3, reg_max=1, end2end=True, ch=(16, 16, 16)).eval()
    detect.stride = torch.tensor([8.0, 16.0, 32.0])
    detect.end2end = True
    levels = [torch.zeros(2, 16, 160 // s, 160 // s) for s in (8, 16, 32)]
    with torch.no_grad():
        decoded = detect._inference({"boxes": boxes, "scores": scores, "feats": levels})
        expected = detect.postprocess(decoded.permute(0, 2, 1))
    np.testing.assert_allclose(head_modules.TopKHead(spec)(boxes, scores).numpy(), expected.numpy(), atol=1e-4)


def test_exported_head_equals_greedy_in_every_arithmetic(tmp_path: Path) -> None:
    path = tmp_path / "head.onnx"
    zeros = {"boxes": torch.zeros(2, 64, 525), "scores": torch.zeros(2, 3, 525)}
    export_module(head_modules.GreedyHead(SPEC), zeros, ("detections",), path)
    # In bf16, where this CPU has it, the head is to stay FP32 as well: a box beyond pixel 512 would be off by two.
    compiled = [load(path) for load in runtimes(CpuPrecision.BF16).values()]
    for seed in range(30):
        boxes, scores = logits(seed)
        expected = head_modules.GreedyHead(SPEC)(boxes, scores).numpy()
        for run in compiled:
            np.testing.assert_allclose(run({"boxes": boxes.numpy(), "scores": scores.numpy()})[0], expected, atol=2e-3)


def test_preprocessing_is_ultralytics_own() -> None:
    images = photographs(96)
    pixels = head_modules.Preprocess()(torch.from_numpy(images))
    expected = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float()
    expected /= 255
    assert torch.equal(pixels, expected)


def rounds_to_settle(matrix_BKK: torch.Tensor) -> int:
    """Iterations until nothing changes: how near real sets come to the bound."""
    before = torch.ones(matrix_BKK.shape[:2])
    for count in range(matrix_BKK.shape[1] + 1):
        after = greedy_keep(matrix_BKK, count + 1)
        if torch.equal(before, after):
            return count
        before = after
    raise AssertionError("a fixed point is reached after as many rounds as there are boxes")


@pytest.mark.parametrize("iou", [0.45, 0.7])
def test_real_box_sets_are_suppressed_as_greedy_does_and_far_from_the_bound(iou: float) -> None:
    import cv2

    from builder.parity import torch_reference
    from builder.weights import load_network
    from tests.unit.examples.test_generate import SAMPLE, generate

    size = generate.Size(640, 640)
    jpegs = [generate.encoded_image(seed, "unseen", 0, size)[0] for seed in range(8)]
    images = np.stack([cv2.imdecode(np.frombuffer(j, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for j in jpegs])
    reference = torch_reference(load_network(SAMPLE / "shapes.pt"), images, iou, 300)
    confidence_BA = reference.probabilities.max(-1)
    order = np.argsort(-confidence_BA, axis=1, kind="stable")[:, :512]
    boxes_BK4 = np.take_along_axis(reference.boxes_xyxy, order[..., None], 1)
    classes_BK = np.take_along_axis(reference.probabilities.argmax(-1), order, 1).astype(np.float32)
    ours = in_graph(boxes_BK4, classes_BK, iou)
    for b in range(len(images)):
        assert np.array_equal(ours[b], greedy_nms(boxes_BK4[b], classes_BK[b], iou))
    assert ours.sum() < ours.size / 2, "most candidates are copies"
    matrix = suppression_matrix(torch.from_numpy(boxes_BK4), torch.from_numpy(classes_BK), iou)
    assert rounds_to_settle(matrix) <= ITERATIONS // 2
