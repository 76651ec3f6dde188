"""The pre- and postprocessing as torch modules; imports torch, so it is imported only where a head is made.

Tensor suffixes: B batch, C classes, A anchors, R bins per side, K candidates, N detections, H height, W width.

Suppression is greedy NMS written with fixed shapes and no plugin. The candidates are sorted by confidence,
``S[i, j]`` says that the earlier box i suppresses the later box j (same class, IoU over the threshold), and

    keep <- not any_i(keep[i] and S[i, j])

is repeated from "keep all" (Cluster-NMS, Zheng et al. 2020, arXiv:2005.03572). Its fixed point is greedy NMS. The map
is antitone, so every even iteration keeps a superset of greedy's boxes and every odd one a subset; t iterations settle
every box that hangs on a chain of at most t suppressions. Random orders need few (dependence depth O(log n):
Fischer & Noever 2018, arXiv:1707.05124).

The bound is ``ITERATIONS``, unrolled: TensorRT captures no CUDA graph of a loop. It is even, so past the bound nothing
that greedy keeps is lost; a box may stay that the end of a longer chain would have removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from builder.head import HeadSpec

ITERATIONS = 24


def suppression_matrix(boxes_BK4: torch.Tensor, classes_BK: torch.Tensor, iou: float) -> torch.Tensor:
    """``S[b, i, j]`` FP16 1 where box i, earlier and of the same class, overlaps box j by more than ``iou``, else 0.

    The IoU is computed with the very operations of torchvision's ``nms``, so that both round alike.
    """
    x1, y1, x2, y2 = boxes_BK4.unsqueeze(-1).unbind(2)
    area = (x2 - x1) * (y2 - y1)
    width = (torch.minimum(x2, x2.transpose(1, 2)) - torch.maximum(x1, x1.transpose(1, 2))).clamp(min=0)
    height = (torch.minimum(y2, y2.transpose(1, 2)) - torch.maximum(y1, y1.transpose(1, 2))).clamp(min=0)
    intersection = width * height
    overlaps = intersection / (area + area.transpose(1, 2) - intersection) > iou
    # Told apart by a mask: shifting each class's coordinates would cost their precision.
    same_class = classes_BK[:, :, None] == classes_BK[:, None, :]
    count = boxes_BK4.shape[1]
    earlier = torch.ones(count, count, dtype=torch.bool).triu(1)
    # FP16 is exact here: 0, 1, and sums of which only "none or some" is asked. TensorRT-RTX has no FP32 GEMM on SM 7.5.
    return (overlaps & same_class & earlier).half()


def greedy_keep(suppresses_BKK: torch.Tensor, iterations: int = ITERATIONS) -> torch.Tensor:
    """FP32 [B, K]: 1 where greedy NMS keeps the candidate, by ``iterations`` rounds of the fixed point."""
    unchallenged_B1K = (suppresses_BKK.amax(1, keepdim=True) < 0.5).half()
    keep_B1K = unchallenged_B1K
    for _ in range(iterations - 1):
        keep_B1K = (keep_B1K.matmul(suppresses_BKK) < 0.5).half()
    # The maximum changes nothing, the unchallenged are always kept. It is there because OpenVINO, told to compute in
    # bf16, leaves alone what reaches the output past no MatMul: so the IoU and the classes stay FP32.
    return torch.maximum(keep_B1K, unchallenged_B1K)[:, 0].float()


def gather_rows(values_BAX: torch.Tensor, index_BK: torch.Tensor) -> torch.Tensor:
    """Whole rows [B, K, X]; OpenVINO's GatherElements wants the other dimensions equal."""
    return values_BAX.gather(1, index_BK[..., None].expand(-1, -1, values_BAX.shape[-1]))


def anchor_table(imgsz: tuple[int, int], strides: Sequence[int]) -> torch.Tensor:
    """FP32 [A, 3]: centre x, centre y in cells, and the stride of every anchor, in Ultralytics' order."""
    rows = []
    for stride in strides:
        y, x = torch.meshgrid(torch.arange(imgsz[0] // stride), torch.arange(imgsz[1] // stride), indexing="ij")
        rows.append(torch.stack([x.flatten() + 0.5, y.flatten() + 0.5, torch.full((x.numel(),), float(stride))], 1))
    return torch.cat(rows)


def distances(boxes_BA4R: torch.Tensor, reg_max: int) -> torch.Tensor:
    """FP32 [B, A, 4] left, top, right, bottom in cells; the mean of each side's distribution (DFL, Li et al. 2020)."""
    if reg_max == 1:
        return boxes_BA4R
    batch, anchors, _ = boxes_BA4R.shape
    bins = torch.arange(reg_max, dtype=torch.float32)
    return (boxes_BA4R.view(batch, anchors, 4, reg_max).softmax(-1) * bins).sum(-1)


def decode(boxes_BA4R: torch.Tensor, anchors_BA3: torch.Tensor, reg_max: int) -> torch.Tensor:
    """FP32 [B, A, 4] x1 y1 x2 y2 in letterboxed pixels."""
    ltrb = distances(boxes_BA4R, reg_max)
    centre, stride = anchors_BA3[..., :2], anchors_BA3[..., 2:]
    return torch.cat([centre - ltrb[..., :2], centre + ltrb[..., 2:]], -1) * stride


class Preprocess(nn.Module):
    """``images`` UINT8 [B, H, W, 3] RGB -> FP32 [B, 3, H, W] in [0, 1]."""

    def forward(self, images_BHWC: torch.Tensor) -> torch.Tensor:
        # TensorRT reads UINT8 only through a Cast: it comes first.
        return images_BHWC.float().permute(0, 3, 1, 2) / 255.0


class AnchorHead(nn.Module):
    """What every head on a network's logits shares: its settings and its anchors."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("anchors_A3", anchor_table(spec.imgsz, spec.strides))

    def boxes(self, boxes_BRA: torch.Tensor, index_BK: torch.Tensor) -> torch.Tensor:
        """FP32 [B, K, 4] x1 y1 x2 y2 of the chosen anchors alone: only they are worth a softmax."""
        anchors_BK3 = cast("torch.Tensor", self.anchors_A3)[index_BK]
        return decode(gather_rows(boxes_BRA.transpose(1, 2), index_BK), anchors_BK3, self.spec.reg_max)


class GreedyHead(AnchorHead):
    """``boxes`` [B, 4R, A] and ``scores`` [B, C, A] logits -> ``detections`` FP32 [B, N, 6], by greedy NMS.

    x1 y1 x2 y2 in letterboxed pixels, confidence, class; sorted by confidence, unused rows all zero.
    """

    def forward(self, boxes_BRA: torch.Tensor, scores_BCA: torch.Tensor) -> torch.Tensor:
        logits_BA, classes_BA = scores_BCA.max(1)
        logits_BK, index_BK = logits_BA.topk(min(self.spec.candidates, self.spec.anchors), 1)
        return suppress(
            self.boxes(boxes_BRA, index_BK), logits_BK.sigmoid(), classes_BA.gather(1, index_BK).float(), self.spec
        )


class TopKHead(AnchorHead):
    """``boxes``, ``scores`` of a one-to-one head -> ``detections`` FP32 [B, N, 6], sorted; no suppression needed."""

    def forward(self, boxes_BRA: torch.Tensor, scores_BCA: torch.Tensor) -> torch.Tensor:
        count = min(self.spec.max_detections, self.spec.anchors)
        index_BN = scores_BCA.max(1)[0].topk(count, 1)[1]
        # An anchor may be found for several classes, as in Ultralytics' own top-k.
        scores_BNC = gather_rows(scores_BCA.transpose(1, 2), index_BN)
        logits_BN, flat_BN = scores_BNC.flatten(1).topk(count, 1)
        row_BN = flat_BN // self.spec.classes
        boxes_BN4 = gather_rows(self.boxes(boxes_BRA, index_BN), row_BN)
        classes_BN = (flat_BN - row_BN * self.spec.classes).float()
        return torch.cat([boxes_BN4, logits_BN.sigmoid()[..., None], classes_BN[..., None]], -1)


class RawHead(AnchorHead):
    """``boxes``, ``scores`` logits -> Ultralytics' ``output0`` FP32 [B, 4 + C, A]: cx cy w h, probabilities."""

    def forward(self, boxes_BRA: torch.Tensor, scores_BCA: torch.Tensor) -> torch.Tensor:
        anchors_1A3 = cast("torch.Tensor", self.anchors_A3)[None]
        low_BA2, high_BA2 = decode(boxes_BRA.transpose(1, 2), anchors_1A3, self.spec.reg_max).split(2, -1)
        boxes_BA4 = torch.cat([(low_BA2 + high_BA2) / 2, high_BA2 - low_BA2], -1)
        return torch.cat([boxes_BA4.transpose(1, 2), scores_BCA.sigmoid()], 1)


class DecodedHead(nn.Module):
    """``output0`` [B, 4 + C, A] of a user's ONNX file -> ``detections`` FP32 [B, N, 6], by greedy NMS."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, output_BXA: torch.Tensor) -> torch.Tensor:
        boxes_B4A, scores_BCA = output_BXA.split([4, self.spec.classes], 1)
        scores_BA, classes_BA = scores_BCA.max(1)
        confidence_BK, index_BK = scores_BA.topk(min(self.spec.candidates, output_BXA.shape[2]), 1)
        centre_BK2, size_BK2 = gather_rows(boxes_B4A.transpose(1, 2), index_BK).split(2, -1)
        boxes_BK4 = torch.cat([centre_BK2 - size_BK2 / 2, centre_BK2 + size_BK2 / 2], -1)
        return suppress(boxes_BK4, confidence_BK, classes_BA.gather(1, index_BK).float(), self.spec)


def suppress(
    boxes_BK4: torch.Tensor, confidence_BK: torch.Tensor, classes_BK: torch.Tensor, spec: HeadSpec
) -> torch.Tensor:
    """``detections`` [B, N, 6] of candidates sorted by confidence: greedy NMS, the kept rows first, the others zero."""
    keep_BK = greedy_keep(suppression_matrix(boxes_BK4, classes_BK, spec.iou))
    rows_BK6 = torch.cat([boxes_BK4, confidence_BK[..., None], classes_BK[..., None]], -1) * keep_BK[..., None]
    count = min(spec.max_detections, boxes_BK4.shape[1])
    return gather_rows(rows_BK6, rows_BK6[..., 4].topk(count, 1)[1])
