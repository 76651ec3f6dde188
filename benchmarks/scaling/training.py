"""The trainer's own step, timed, with as much exchanged between the workers as is asked for."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.scaling.processes import Exchange
from trainer.data import read_training_data
from trainer.distribution import Devices, Group, Process
from trainer.interruption import Interruption
from trainer.loop import TrainingLoop
from trainer.loss_scaling import heads_of
from trainer.settings import TrainSettings
from trainer.sync_batch_norm import GlobalBatchNorm2d

_BATCHES = 4
"""Loaded beforehand and taken in turns: loading is no part of what is measured."""
_NO_RATE = 1e-9
"""Workers that exchange no gradients would learn apart."""


class _MeasuredGroup(Group):
    """A group whose losses may be left apart."""

    exchange = Exchange.EVERYTHING

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self.exchange is Exchange.NOTHING else super().add(tensor)


class _MeasuredLoop(TrainingLoop):
    """Steps of batches that are there already."""

    exchange = Exchange.EVERYTHING
    batch: Any = None
    forward_end_s = backward_end_s = 0.0

    def _next_batch(self, number: int) -> Any:
        return dict(self.batch)

    def _exchange_if(self, due: bool) -> contextlib.AbstractContextManager[Any]:
        return super()._exchange_if(due and self.exchange is Exchange.EVERYTHING)

    def optimizer_step(self) -> None:
        self.backward_end_s = self.now_s()
        super().optimizer_step()  # type: ignore[no-untyped-call]

    def now_s(self) -> float:
        """When all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class MeasuredTraining:
    """One worker of a training, set up to its first step."""

    def __init__(self, spec: dict[str, Any], process: Process, devices: Devices) -> None:
        """Join the other workers, and load batches of ``spec["images"]`` images for each.

        Raises:
            BuilderError: the data, the weights or the request is wrong.
        """
        from trainer.freezing import layout_of, stages_of
        from trainer.seeded_dataset import SETUP_STREAM, seed_all
        from trainer.starting_weights import starting_weights

        self.group = _MeasuredGroup(process, devices.kind, devices.indexes[process.local_rank])
        settings = _settings(spec, process.world)
        data = read_training_data(settings.data)
        seed_all(SETUP_STREAM, settings.seed)
        start = starting_weights(
            weights=settings.weights, model=settings.model, names=data.names, allow_partial=settings.allow_partial
        )
        self._loop = _MeasuredLoop(
            settings,
            data,
            start.module,
            self.group,
            stages=stages_of((), layout_of(start.module.yaml), settings.epochs),
            interruption=Interruption(settings.grace_s),
            save=_keep_nothing,
            save_best=_keep_nothing,
            say=_keep_nothing,
        )
        torch.set_num_threads(spec["threads"])
        self._loop.prepare()
        self._loop._begin_epoch(0)
        self._loop.optimizer.zero_grad()
        assert self._loop._batches is not None, "an epoch begins with loading"
        self._batches = [next(self._loop._batches) for _ in range(_BATCHES)]
        self._loop._batches = None
        self._loop.model.register_forward_hook(self._end_forward)
        self._norms = [each for each in self._loop.model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
        self._together = [type(each) for each in self._norms]
        self._done = 0

    def facts(self) -> dict[str, int]:
        """What the workers exchange."""
        criterion = getattr(self._loop.model, "module", self._loop.model).criterion
        return {
            "gradient_bytes": sum(4 * p.numel() for p in self._loop.model.parameters() if p.requires_grad),
            "small_exchanges": 2 * len(self._norms) + len(heads_of(criterion)),
        }

    def steps(self, exchange: str, images: int, count: int) -> dict[str, list[float]]:
        """Seconds of ``count`` steps of ``images`` images in this process, and of their backward passes."""
        loop = self._loop
        self._take_apart(Exchange(exchange))
        batches = [_first(batch, images) for batch in self._batches]
        steps_s, backward_s = [], []
        self.group.most([0])
        for _ in range(count):
            loop.batch = batches[self._done % _BATCHES]
            began_s = loop.now_s()
            loop._step(*divmod(self._done, loop.order.steps_per_epoch))
            steps_s.append(loop.now_s() - began_s)
            backward_s.append(loop.backward_end_s - loop.forward_end_s)
            self._done += 1
        return {"steps_s": steps_s, "backward_s": backward_s}

    def all_reduce(self, size_bytes: int, count: int) -> list[float]:
        """Seconds of ``count`` all-reduces of one tensor."""
        self._take_apart(Exchange.EVERYTHING)
        tensor = torch.zeros(max(size_bytes // 4, 1), device=self.group.device)
        self.group.add(tensor)
        times_s = []
        for _ in range(count):
            self.group.most([0])
            began_s = self._loop.now_s()
            self.group.add(tensor)
            times_s.append(self._loop.now_s() - began_s)
        return times_s

    def _take_apart(self, exchange: Exchange) -> None:
        self._loop.exchange = self.group.exchange = exchange
        for layer, together in zip(self._norms, self._together, strict=True):
            # The same parameters and buffers, normalised by the plain layer.
            apart = nn.BatchNorm2d if together in (GlobalBatchNorm2d, nn.SyncBatchNorm) else together
            layer.__class__ = apart if exchange is Exchange.NOTHING else together

    def _end_forward(self, *_: object) -> None:
        if self.group.process.world == 1:
            self._loop.forward_end_s = self._loop.now_s()


def _settings(spec: dict[str, Any], world: int) -> TrainSettings:
    batch = spec["images"] * world
    return TrainSettings(
        data=Path(spec["data"]),
        run=Path(spec["run"]),
        weights=Path(spec["weights"]) if spec["weights"] else None,
        model=spec["model"],
        epochs=1,
        batch=batch,
        imgsz=spec["imgsz"],
        precision=spec["precision"],
        workers_per_device=0,
        optimizer="SGD",
        lr0=_NO_RATE,
        # Gradients travel and the optimizer steps with every batch.
        hyperparameters={"nbs": batch, "warmup_epochs": 0.0, "close_mosaic": 0},
    )


def _first(batch: dict[str, Any], images: int) -> dict[str, Any]:
    """The first images of a batch, and their boxes."""
    of_boxes = batch["batch_idx"] < images
    return {
        name: value[of_boxes] if name in ("batch_idx", "cls", "bboxes") else value[:images]
        for name, value in batch.items()
    }


def _keep_nothing(*_: object) -> None:
    """Nothing of a benchmark's training is kept or said."""
