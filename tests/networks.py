"""Untrained networks that behave like trained ones: alive activations, and some confident detections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ultralytics

from builder.artifacts import Head, NetworkModel
from builder.head import HeadSpec
from clients.images import read_image
from clients.letterbox import letterbox

FAMILIES = ("yolov8n", "yolo11n", "yolo12n", "yolov10n", "yolo26n")
ASSETS = Path(ultralytics.__file__).parent / "assets"


def photographs(size: int) -> np.ndarray:
    """Uint8 [2, size, size, 3]: two real pictures as a client sends them."""
    return np.stack([letterbox(read_image(ASSETS / name), (size, size))[0] for name in ("bus.jpg", "zidane.jpg")])


def live_model(family: str, *, classes: int = 3, size: int = 160, seed: int = 0, gain: float = 6.0):
    """A DetectionModel of ``family`` whose batch statistics fit real pictures and whose logits are spread.

    As Ultralytics builds it, an untrained network's signal dies in its first layers and all anchors are alike, so that
    neither its export nor its precision could be seen to go wrong. ``gain`` spreads the logits, and with them the
    rounding: at 6 some confidences come near 1, at 1 FP16 is as close to FP32 as in a trained network.
    """
    import torch
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(seed)
    model = DetectionModel(f"{family}.yaml", nc=classes, verbose=False)
    pixels = torch.from_numpy(photographs(size)).permute(0, 3, 1, 2).float() / 255
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0  # the running statistics become those of this one batch
    model.train()
    with torch.no_grad():
        model(pixels)
        model.eval()
        head = model.model[-1]
        for branch in (head.one2many, head.one2one) if hasattr(head, "one2one_cv2") else (head.one2many,):
            for layer in branch["cls_head"]:
                layer[-1].weight.mul_(gain)
                layer[-1].bias.fill_(-1.0 - gain / 2)
            for layer in branch["box_head"]:
                layer[-1].weight.mul_(gain / 3 if head.reg_max > 1 else gain / 20)  # distances themselves stay positive
                layer[-1].bias.fill_(2.0)
    for norm in norms:
        norm.momentum = 0.03
    return model


def head_spec(network: NetworkModel, head: Head = Head.DETECTIONS) -> HeadSpec:
    """What a build attaches to the network, thresholds at their defaults."""
    return HeadSpec(
        head=head,
        imgsz=network.imgsz,
        strides=network.strides,
        reg_max=network.reg_max,
        classes=len(network.names),
        nms_free=network.nms_free,
    )


def save_checkpoint(model, path: Path) -> Path:
    """Write a checkpoint as Ultralytics does: the pickled model, beside its training arguments."""
    import torch

    torch.save({"model": model, "ema": None, "train_args": {"task": "detect", "imgsz": 160}, "version": "8.4"}, path)
    return path
