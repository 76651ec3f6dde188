"""What a student has yet to learn of its teacher, as a loss beside that of the labels.

Teacher and student see the same augmented images. With p the class probabilities of an anchor, b its box, d the
distributions of the box's four sides, t the teacher's and s the student's, and c the teacher's highest p, the weight
of an anchor's box:

    logits    gain cls * sum over anchors and classes of KL(p_t || p_s) / sum c, as two outcomes each: a detector's
              scores are independent (Yang et al., ICCV 2023, arXiv 2308.14286)
    boxes     gain box * sum c (1 - CIoU(b_t, b_s)) / sum c (boxes as targets: the same paper)
              + gain dfl * sum c KL(d_t || d_s) / sum c, the mean of four sides, where both have distributions of as
              many bins (Zheng et al., CVPR 2022, arXiv 2102.12252)
    features  mean over images and levels of || m_t - m_s ||^2, with m the sum over channels of the squared input of the
              head, as a vector of length 1: needs no layer that fits one width to the other (Zagoruyko and Komodakis,
              ICLR 2017, arXiv 1612.03928)

The gains are Ultralytics' own of the labels' losses, and sum c stands where the sum of the labels' scores does: a
weight of 1 has the teacher count as much as the labels. Both sides' logits are divided by the temperature T, and the
divergences multiplied by T^2 (Hinton et al. 2015, arXiv 1503.02531). Sums run over all processes (see
``trainer.loss_scaling``). Ultralytics' own ``distill_model`` has features alone, through layers that it trains beside
the student.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional
from ultralytics.utils.metrics import bbox_iou
from ultralytics.utils.tal import make_anchors

from trainer.distribution import Group
from trainer.loss_scaling import Items, heads_of
from trainer.settings import DISTIL_WEIGHTS, TrainSettings
from trainer.teacher import Predictions

TAUGHT = "teacher"
"""Where a batch has the teacher's predictions."""
LOSS = "distil_loss"
_ABSENT = 0.05
"""Below this confidence of the teacher there is no object, and its box is nothing to learn from."""

Loss = Callable[[Predictions, Any], tuple[torch.Tensor, Items]]


def distil(criterion: Any, settings: TrainSettings, group: Group) -> None:
    """Have a criterion of Ultralytics' add the teacher's loss, as an item of its own; after ``scale_criterion``."""
    told: dict[str, torch.Tensor] = {}
    for name, part in heads_of(criterion).items():
        part.loss = _Taught(name, part, settings, group, told)


class _Taught:
    """The loss of one head of the student.

    A head of one box per object learns from a teacher's head of that kind alone: from the others it would learn to
    predict an object many times.
    """

    def __init__(
        self, name: str, part: Any, settings: TrainSettings, group: Group, told: dict[str, torch.Tensor]
    ) -> None:
        self._name, self._part, self._group, self._told = name, part, group, told
        self._labels: Loss = part.loss
        weights = {**DISTIL_WEIGHTS, **settings.distil_weights}
        self._weights = [weights["logits"], weights["boxes"], weights["features"]]
        self._temperature = settings.distil_temperature

    def __call__(self, predictions: Predictions, batch: Mapping[str, Any]) -> tuple[torch.Tensor, Items]:
        loss, items = self._labels(predictions, batch)
        teacher = batch[TAUGHT].get(self._name)
        own = told = loss.new_zeros(())
        if teacher is not None:
            with torch.autocast(loss.device.type, enabled=False):
                own, told = self._compared(predictions, teacher)
        self._told[self._name] = told
        # Ultralytics tells the items of the last head alone.
        return torch.cat([loss, own.reshape(1)]), {**items, LOSS: sum(self._told.values(), loss.new_zeros(()))}

    def _compared(self, student: Predictions, teacher: Predictions) -> tuple[torch.Tensor, torch.Tensor]:
        """This process's loss, whose mean over the processes is that of the global batch; and that per image."""
        weights = student["scores"].new_tensor(self._weights, dtype=torch.float32)
        confidence_NA = teacher["scores"].float().sigmoid().amax(1)
        parts = torch.stack(
            [
                self._logits(student, teacher) if self._weights[0] else weights.new_zeros(()),
                self._boxes(student, teacher, confidence_NA) if self._weights[1] else weights.new_zeros(()),
                # A head of one box per object sees features that its gradients do not reach.
                _features(student, teacher) if self._weights[2] and self._name == "one2many" else weights.new_zeros(()),
            ]
        )
        images = weights.new_tensor(float(len(confidence_NA)))
        sums = self._group.add(torch.cat([parts.detach(), torch.stack([confidence_NA.sum(), images])]))
        confidence = sums[3].clamp(min=1)
        per_image = weights / torch.stack([confidence, confidence, sums[4]])
        own = (parts * per_image).sum() * sums[4] * self._group.process.world
        return own, (sums[:3] * per_image).sum()

    def _logits(self, student: Predictions, teacher: Predictions) -> torch.Tensor:
        """Sum over images, anchors and classes."""
        t = self._temperature
        wanted, ours = teacher["scores"].float() / t, student["scores"].float() / t
        target = wanted.sigmoid()
        # The second term is the teacher's entropy: alike, they have no loss.
        sums = functional.binary_cross_entropy_with_logits(
            ours, target, reduction="sum"
        ) - functional.binary_cross_entropy_with_logits(wanted, target, reduction="sum")
        return sums * (float(self._part.hyp.cls) * t * t)

    def _boxes(self, student: Predictions, teacher: Predictions, confidence_NA: torch.Tensor) -> torch.Tensor:
        """Sum over the anchors at which the teacher sees an object, by its confidence."""
        places = (confidence_NA > _ABSENT).nonzero(as_tuple=True)
        weight_K = confidence_NA[places]
        anchors_A2, _ = make_anchors(student["feats"], self._part.stride, 0.5)
        ours_K4B, wanted_K4B = (_sides(each)[places] for each in (student, teacher))
        middle_K2 = anchors_A2.float()[places[1]]
        ours_K4, wanted_K4 = (_corners(each, middle_K2) for each in (ours_K4B, wanted_K4B))
        iou_K = bbox_iou(ours_K4, wanted_K4, xywh=False, CIoU=True).squeeze(-1)
        loss: torch.Tensor = float(self._part.hyp.box) * ((1 - iou_K) * weight_K).sum()
        if 1 < ours_K4B.shape[2] == wanted_K4B.shape[2]:
            t = self._temperature
            divergence_K4 = functional.kl_div(
                (ours_K4B / t).log_softmax(2), (wanted_K4B / t).log_softmax(2), reduction="none", log_target=True
            ).sum(2)
            loss = loss + float(self._part.hyp.dfl) * t * t * (divergence_K4.mean(1) * weight_K).sum()
        return loss


def _sides(predictions: Predictions) -> torch.Tensor:
    """[N, A, 4, bins], the sides' distributions as logits; one bin: the distance itself."""
    boxes_NCA: torch.Tensor = predictions["boxes"].float()
    images, channels, anchors = boxes_NCA.shape
    return boxes_NCA.transpose(1, 2).reshape(images, anchors, 4, channels // 4)


def _corners(sides_K4B: torch.Tensor, middle_K2: torch.Tensor) -> torch.Tensor:
    """Boxes [K, 4] as corners, in strides."""
    bins = sides_K4B.shape[2]
    values = torch.arange(bins, dtype=sides_K4B.dtype, device=sides_K4B.device)
    distances_K4 = sides_K4B.softmax(2) @ values if bins > 1 else sides_K4B[..., 0]
    return torch.cat([middle_K2 - distances_K4[:, :2], middle_K2 + distances_K4[:, 2:]], 1)


def _features(student: Predictions, teacher: Predictions) -> torch.Tensor:
    """Sum over images of the mean over levels."""
    levels = [
        (_attention(wanted) - _attention(ours)).square().sum()
        for ours, wanted in zip(student["feats"], teacher["feats"], strict=True)
    ]
    return torch.stack(levels).mean()


def _attention(feature_NCHW: torch.Tensor) -> torch.Tensor:
    """Where a level looks: [N, H * W], of length 1 per image."""
    return functional.normalize(feature_NCHW.float().square().sum(1).flatten(1), dim=1)
