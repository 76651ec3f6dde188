"""A real training of a small network on pictures of noise: everything of a step but the loading of its data."""

from __future__ import annotations

import logging
import os
from typing import Any

_CLASSES = 5
_BOXES = 4
"""In each picture."""
_LARGEST_GRADIENT = 10.0


class SmallTraining:
    """Forward, loss, backward, AdamW and the moving average, as Ultralytics has them."""

    def __init__(self, model: str, *, batch: int, imgsz: int) -> None:
        """Random weights; every step has the same pictures."""
        os.environ.setdefault("YOLO_OFFLINE", "true")
        import torch
        from ultralytics.cfg import get_cfg
        from ultralytics.nn.tasks import DetectionModel
        from ultralytics.utils import LOGGER
        from ultralytics.utils.torch_utils import ModelEMA

        LOGGER.setLevel(logging.WARNING)
        torch.manual_seed(0)
        self._torch = torch
        network: Any = DetectionModel(model, nc=_CLASSES, verbose=False)
        network.args = get_cfg()
        self._model = network
        self._model.train()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-3)
        self._ema: Any = ModelEMA(self._model)
        boxes = batch * _BOXES
        self._batch = {
            "img": torch.rand(batch, 3, imgsz, imgsz),
            "cls": torch.randint(_CLASSES, (boxes, 1)).float(),
            "bboxes": torch.rand(boxes, 4) * 0.4 + 0.1,
            "batch_idx": torch.arange(batch).repeat_interleave(_BOXES).float(),
        }

    def step(self) -> None:
        """One step of the optimizer."""
        loss, _ = self._model(self._batch)
        loss.sum().backward()
        self._torch.nn.utils.clip_grad_norm_(self._model.parameters(), _LARGEST_GRADIENT)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._ema.update(self._model)

    def state(self) -> dict[str, Any]:
        """A copy of what a checkpoint of it holds: weights, their average and two moments of each, in FP32."""
        from trainer.snapshot import copied

        state: dict[str, Any] = copied(
            {
                "model": self._model.state_dict(),
                "ema": self._ema.ema.state_dict(),
                "optimizer": self._optimizer.state_dict(),
            }
        )
        return state
