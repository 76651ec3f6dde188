"""Parity: does each graph compute what PyTorch computes, in onnxruntime and in OpenVINO, on real images?

Two comparisons per graph and runtime:

- the network's graph, anchor by anchor, on the 100 anchors per image that PyTorch is surest of;
- the served graph, detection by detection at the operating threshold, against PyTorch followed by Ultralytics' own
  decoding and NMS: a code path that shares nothing with the head in the graph.

Tensor suffixes: B images, A anchors, C classes, N detections, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from builder.artifacts import CpuPrecision, Head, NetworkModel, NetworkOutput, Precision
from builder.errors import ParityError
from builder.runtimes import OPENVINO_BF16, RUNTIMES, Array, run_batch, runtimes

if TYPE_CHECKING:
    from builder.head import HeadSpec
    from builder.weights import Network

CONFIDENCE = 0.25
"""The operating threshold, Ultralytics' default for prediction."""
TOP_ANCHORS = 100
MATCH_IOU = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """What a graph may differ from PyTorch by: 95th percentiles, for a single anchor's maximum tells of that anchor."""

    probability_p95: float
    box_p95_px: float
    matched: float
    """The least share of detections that must be matched at IoU 0.9."""


# FP32: rounding alone. FP16: 11 bits of mantissa through about a hundred layers, and detections at the threshold may
# fall on either side of it.
TOLERANCES = {
    Precision.FP32: Tolerance(probability_p95=0.001, box_p95_px=0.1, matched=1.0),
    Precision.FP16: Tolerance(probability_p95=0.02, box_p95_px=2.0, matched=0.95),
    # INT8 differs by design, and on two images that says nothing: the gate judges it, on labelled ones.
    Precision.INT8: Tolerance(probability_p95=1.0, box_p95_px=float("inf"), matched=0.0),
}

# 8 bits of mantissa. On photographs without its shapes, where the sample is unsure of everything, it is off by 0.021.
BF16_TOLERANCE = Tolerance(probability_p95=0.06, box_p95_px=4.0, matched=0.9)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How far two sets of values are apart."""

    largest: float
    p95: float

    @classmethod
    def of(cls, values: Array) -> Difference:
        """The largest and the 95th percentile; 0 where there are no values, NaN where any is NaN."""
        if values.size == 0:
            return cls(largest=0.0, p95=0.0)
        return cls(largest=float(values.max()), p95=float(np.percentile(values, 95)))


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkParity:
    """The network's graph against PyTorch, over the surest anchors; per anchor the largest over classes or sides."""

    probability: Difference
    box_px: Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedParity:
    """The served graph against PyTorch and Ultralytics' NMS, at the operating threshold."""

    reference_detections: int
    matched: float
    """Share of both sides' detections with a counterpart of their class at IoU 0.9 or more; 1 where there are none."""
    confidence: Difference
    """Over the matched pairs."""
    box_px: Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """Every comparison, by runtime."""

    images: int
    network: Mapping[str, NetworkParity]
    served: Mapping[str, ServedParity]

    def failures(self, tolerance: Tolerance) -> list[str]:
        """What is beyond the tolerance, a line each."""
        lines = []

        def check(what: str, value: float, limit: float) -> None:
            # Written as "not within": a NaN is within nothing.
            if not value <= limit:
                lines.append(f"{what} {value:.4g}, limit {limit:g}")

        for runtime, n in self.network.items():
            limit = _limits(runtime, tolerance)
            check(f"network in {runtime}: probabilities off by (p95)", n.probability.p95, limit.probability_p95)
            check(f"network in {runtime}: boxes off by (p95, px)", n.box_px.p95, limit.box_p95_px)
        for runtime, s in self.served.items():
            limit = _limits(runtime, tolerance)
            check(f"served in {runtime}: share of unmatched detections", 1 - s.matched, 1 - limit.matched)
            check(f"served in {runtime}: confidences off by (p95)", s.confidence.p95, limit.probability_p95)
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain values, rounded to four significant digits."""
        return {
            "images": self.images,
            "confidence": CONFIDENCE,
            "network": {k: _rounded(asdict(v)) for k, v in self.network.items()},
            "served": {k: _rounded(asdict(v)) for k, v in self.served.items()},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What the original network computes on the images."""

    probabilities: Array
    """[B, A, C]."""
    boxes_xyxy: Array
    """[B, A, 4] in letterboxed pixels."""
    detections: list[Array]
    """Per image [N, 6], after Ultralytics' NMS, confidence above a tenth of the operating threshold."""


def _limits(runtime: str, tolerance: Tolerance) -> Tolerance:
    """The wider of the precision's tolerance and that of the runtime's own arithmetic."""
    if runtime != OPENVINO_BF16:
        return tolerance
    return Tolerance(
        probability_p95=max(tolerance.probability_p95, BF16_TOLERANCE.probability_p95),
        box_p95_px=max(tolerance.box_p95_px, BF16_TOLERANCE.box_p95_px),
        matched=min(tolerance.matched, BF16_TOLERANCE.matched),
    )


def measure_parity(
    reference: Reference,
    network: NetworkModel,
    served_path: Path,
    images_BHWC: NDArray[np.uint8],
    spec: HeadSpec,
    *,
    cpu_precision: CpuPrecision = CpuPrecision.FP32,
) -> ParityReport:
    """Run both graphs in every runtime, one by one and as a batch, and compare with the reference.

    Raises:
        ParityError: a runtime cannot load or run a graph.
    """
    pixels_BCHW = to_pixels(images_BHWC)
    served_input = images_BHWC if spec.head is Head.DETECTIONS else pixels_BCHW
    network_parity, served_parity = {}, {}
    for runtime, load in runtimes(cpu_precision).items():
        outputs = run_batch(runtime, load, network.path, "pixels", pixels_BCHW)
        if network.output is not NetworkOutput.DETECTIONS:  # their rows are sorted, so rounding moves them
            network_parity[runtime] = _compare_network(reference, decode_network(outputs, network, spec))
        served = run_batch(runtime, load, served_path, "images", served_input)[0]
        served_parity[runtime] = _compare_served(reference.detections, finish(served, spec))
    return ParityReport(images=len(images_BHWC), network=network_parity, served=served_parity)


def check_parity(report: ParityReport, precision: Precision) -> None:
    """Raise ParityError, naming each figure beyond its limit, where a graph is not what PyTorch computes."""
    failures = report.failures(TOLERANCES[precision])
    if failures:
        raise ParityError(
            f"the {precision} graph does not compute what PyTorch computes: {'; '.join(failures)}. "
            "Nothing was published. Try --precision fp32 to tell the network's arithmetic from its export, or "
            "leave out --cpu-precision bf16 where only bf16 is named."
        )


def torch_reference(network: Network, images_BHWC: NDArray[np.uint8], iou: float, max_detections: int) -> Reference:
    """The reference of a PyTorch network: its own forward pass in FP32, Ultralytics' own decoding and NMS."""
    import torch

    with torch.inference_mode():
        prediction, raw = network.module(torch.from_numpy(to_pixels(images_BHWC)))
        raw = raw["one2one"] if network.nms_free else raw.get("one2many", raw)
        head: Any = network.module.model[-1]  # type: ignore[index]
        decoded = head._get_decode_boxes(raw).transpose(1, 2).numpy()
    return Reference(
        probabilities=raw["scores"].sigmoid().transpose(1, 2).numpy(),
        boxes_xyxy=decoded if network.nms_free else _xyxy(decoded),
        detections=_finished(prediction.numpy(), iou, max_detections),
    )


def onnx_reference(network: NetworkModel, images_BHWC: NDArray[np.uint8], spec: HeadSpec) -> Reference:
    """The reference of a user's ONNX file: the file itself in onnxruntime, before anything was changed in it."""
    outputs = run_batch("onnxruntime", RUNTIMES["onnxruntime"], network.path, "pixels", to_pixels(images_BHWC))
    probabilities, boxes = decode_network(outputs, network, spec)
    return Reference(
        probabilities=probabilities,
        boxes_xyxy=boxes,
        detections=_finished(outputs[0], spec.iou, spec.max_detections),
    )


def to_pixels(images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """FP32 [B, 3, H, W] in [0, 1]."""
    pixels: NDArray[np.float32] = np.ascontiguousarray(images_BHWC.transpose(0, 3, 1, 2), dtype=np.float32)
    pixels /= 255
    return pixels


def decode_network(outputs: Sequence[Array], network: NetworkModel, spec: HeadSpec) -> tuple[Array, Array]:
    """Probabilities [B, A, C] and boxes [B, A, 4] x1 y1 x2 y2 of a network's outputs."""
    if network.output is NetworkOutput.LOGITS:
        import torch

        from builder import head_modules

        boxes, scores = (torch.from_numpy(np.array(o, dtype=np.float32)) for o in outputs)
        anchors = head_modules.anchor_table(spec.imgsz, spec.strides)[None]
        decoded = head_modules.decode(boxes.transpose(1, 2), anchors, spec.reg_max)
        return scores.sigmoid().transpose(1, 2).numpy(), decoded.numpy()
    (output,) = outputs
    if network.output is NetworkOutput.DETECTIONS:
        return output[..., 4:5], output[..., :4]
    return output[:, 4:].transpose(0, 2, 1), _xyxy(output[:, :4].transpose(0, 2, 1))


def finish(output: Array, spec: HeadSpec) -> list[Array]:
    """Detections [N, 6] per image of what a served graph gives; for a raw head by Ultralytics' NMS."""
    return _finished(output, spec.iou, spec.max_detections)


def matches(ours_N6: Array, theirs_N6: Array) -> list[tuple[int, int]]:
    """Pairs (i, j) of the same class at IoU 0.9 or more, each used once, the best overlaps first."""
    overlap = overlaps(ours_N6[:, :4], theirs_N6[:, :4]) * (ours_N6[:, None, 5] == theirs_N6[None, :, 5])
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = divmod(int(flat), overlap.shape[1])
        if overlap[i, j] < MATCH_IOU:
            break
        if all(i != a and j != b for a, b in pairs):
            pairs.append((i, j))
    return pairs


def _compare_network(reference: Reference, decoded: tuple[Array, Array]) -> NetworkParity:
    probabilities_BAC, boxes_BA4 = decoded
    count = min(TOP_ANCHORS, boxes_BA4.shape[1])
    top_BT = np.argsort(-reference.probabilities.max(-1), axis=1, kind="stable")[:, :count, None]
    pairs = ((probabilities_BAC, reference.probabilities), (boxes_BA4, reference.boxes_xyxy))
    probability, box = (
        np.abs(np.take_along_axis(ours, top_BT, 1) - np.take_along_axis(theirs, top_BT, 1)).max(-1)
        for ours, theirs in pairs
    )
    return NetworkParity(probability=Difference.of(probability), box_px=Difference.of(box))


def _compare_served(reference: list[Array], served: list[Array]) -> ServedParity:
    sure, found, expected = 0, 0, 0
    differences: list[Array] = [np.zeros((0, 6))]
    for theirs, ours in zip(reference, served, strict=True):
        if not np.isfinite(ours).all():
            nan = Difference(largest=float("nan"), p95=float("nan"))
            return ServedParity(reference_detections=len(theirs), matched=0.0, confidence=nan, box_px=nan)
        # A detection at the threshold may have its counterpart just under it: pairs are sought among all.
        pairs = [(i, j) for i, j in matches(ours, theirs) if max(ours[i, 4], theirs[j, 4]) >= CONFIDENCE]
        expected += int((theirs[:, 4] >= CONFIDENCE).sum())
        sure += int((ours[:, 4] >= CONFIDENCE).sum() + (theirs[:, 4] >= CONFIDENCE).sum())
        found += sum(int(ours[i, 4] >= CONFIDENCE) + int(theirs[j, 4] >= CONFIDENCE) for i, j in pairs)
        if pairs:
            i, j = (list(side) for side in zip(*pairs, strict=True))
            differences.append(np.abs(ours[i] - theirs[j]))
    difference_P6 = np.concatenate(differences)
    return ServedParity(
        reference_detections=expected,
        matched=found / sure if sure else 1.0,
        confidence=Difference.of(difference_P6[:, 4]),
        box_px=Difference.of(difference_P6[:, :4].max(-1) if len(difference_P6) else difference_P6),
    )


def _finished(prediction: Array, iou: float, max_detections: int) -> list[Array]:
    """Per image [N, 6] above a tenth of the operating threshold; by Ultralytics' NMS unless finished already."""
    low = CONFIDENCE / 10
    if prediction.shape[-1] == 6:
        return [rows[rows[:, 4] >= low] for rows in prediction]
    import torch
    from ultralytics.utils.nms import non_max_suppression

    kept = non_max_suppression(
        torch.from_numpy(np.array(prediction)), low, iou, max_det=max_detections, max_time_img=60.0
    )
    return [rows.numpy() for rows in kept]


def overlaps(a_N4: Array, b_M4: Array) -> Array:
    """IoU [N, M] of boxes x1 y1 x2 y2."""
    low = np.maximum(a_N4[:, None, :2], b_M4[None, :, :2])
    high = np.minimum(a_N4[:, None, 2:], b_M4[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(-1)
    area_a, area_b = ((x[:, 2:] - x[:, :2]).prod(-1) for x in (a_N4, b_M4))
    union = area_a[:, None] + area_b[None] - intersection
    iou: Array = intersection / np.maximum(union, 1e-9)
    return iou


def _xyxy(boxes_xywh: Array) -> Array:
    centre, half = boxes_xywh[..., :2], boxes_xywh[..., 2:] / 2
    return np.concatenate([centre - half, centre + half], -1)


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Floats to four significant digits: what is beyond is the weather of one machine."""
    return {
        key: _rounded(value)
        if isinstance(value, dict)
        else float(f"{value:.4g}")
        if isinstance(value, float)
        else value
        for key, value in values.items()
    }
