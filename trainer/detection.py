"""Ultralytics' set-up of a detection training, with this package's data, distribution and precision.

Its data set, augmentation, loss, optimizer, EMA and validation are kept. Replaced are: what it downloads and reports
(nothing here does), the order and randomness of the samples, and what it ties to CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from ultralytics.data import build_dataloader
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.utils.torch_utils import unwrap_model

from builder.errors import DataError, SpecError
from trainer.data import TrainData
from trainer.distillation import LOSS, TAUGHT, distil
from trainer.distribution import Group
from trainer.loss_scaling import scale_criterion
from trainer.order import Order
from trainer.seeded_dataset import SETUP_STREAM, CountedDataset, ListedDataset, seed_all
from trainer.settings import TrainSettings
from trainer.sync_batch_norm import synchronized
from trainer.teacher import Teacher

_ADAM = frozenset({"Adam", "AdamW", "Adamax", "NAdam", "RAdam"})


class DetectionSetup(DetectionTrainer):
    """What is there before the first step."""

    # Ultralytics declares them None, or the path that they are made from.
    model: Any
    ema: Any
    optimizer: Any
    scheduler: Any
    scaler: Any
    validator: Any
    stopper: Any
    lf: Any
    loss: Any
    loss_items: Any
    loss_names: Any
    best_fitness: Any
    fitness: Any

    def __init__(self, settings: TrainSettings, data: TrainData, module: nn.Module, group: Group) -> None:
        """``module`` is the network to train, ``group`` the processes to train it with."""
        self.settings, self.source, self.group = settings, data, group
        nms_free = getattr(module.model[-1], "one2one_cv2", None) is not None  # type: ignore[index]
        super().__init__(overrides=_overrides(settings, group, nms_free))
        self.callbacks: dict[str, list[Any]] = {}
        self.model = module
        self.teacher: Teacher | None = None

    def run_callbacks(self, event: str) -> None:
        """Call nothing: Ultralytics' integrations report to services."""

    def get_dataset(self) -> dict[str, Any]:
        """The data as Ultralytics describes it."""
        names = dict(enumerate(self.source.names))
        return {"train": "train", "val": "val", "names": names, "nc": len(names), "channels": 3}

    def _setup_train(self) -> None:
        seed_all(SETUP_STREAM, self.settings.seed)
        if self.settings.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        # With more than one process Ultralytics would wrap the model for CUDA; ``wrap`` does it for any device.
        self.world_size = 1
        super()._setup_train()  # type: ignore[no-untyped-call]
        self.world_size = self.group.process.world
        self._setup_precision()
        model = self.model
        model.criterion = model.init_criterion()
        if self.world_size > 1:
            scale_criterion(model.criterion, self.group)
        if self.settings.teacher:
            self.teacher = Teacher(self.settings, model, self.source.names, self.device)
            distil(model.criterion, self.settings, self.group)
        if self.world_size > 1:
            self.model = synchronized(model, self.group.statistics, self.device)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch on the device, its pixels between 0 and 1, with what the teacher says of it."""
        ready: dict[str, Any] = super().preprocess_batch(batch)
        return {**ready, TAUGHT: self.teacher.predictions(ready["img"])} if self.teacher else ready

    def label_loss_items(self, loss_items: Any = None, prefix: str = "train") -> Any:
        """The losses by column; a validation has no teacher."""
        items = super().label_loss_items(loss_items, prefix)  # type: ignore[no-untyped-call]
        absent = f"val/{LOSS}"
        if isinstance(items, list):
            return [name for name in items if name != absent]
        return {name: value for name, value in items.items() if name != absent}

    def _setup_precision(self) -> None:
        precision = self.settings.precision
        self.amp = precision != "fp32"
        self.amp_dtype = torch.bfloat16 if precision == "bf16" else torch.float16
        self.args.amp = "bf16" if precision == "bf16" else self.amp
        self.scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")

    def wrap(self) -> None:
        """Have gradients exchanged; anew where other parameters learn than before."""
        if self.world_size == 1:
            return
        on_gpu = self.device.type == "cuda"
        self.model = nn.parallel.DistributedDataParallel(
            unwrap_model(self.model),
            device_ids=[self.device.index] if on_gpu else None,
            # One of two heads, or the branch without any object, may have no gradient in a step.
            find_unused_parameters=True,
            forward_sync_buffers=False,
        )

    def _build_train_pipeline(self) -> None:
        self._build_data()
        steps = self.order.steps_per_epoch
        nominal = self.args.nbs
        self.nominal_accumulate = min(max(round(nominal / self.batch_size), 1), steps * self.epochs)
        self.accumulate = self.nominal_accumulate
        decay = self.args.weight_decay * self.batch_size * self.accumulate / nominal
        self.optimizer = self.build_optimizer(  # type: ignore[no-untyped-call]
            model=self.model,
            name=self.args.optimizer,
            lr=self.args.lr0,
            momentum=self.args.momentum,
            decay=decay,
            iterations=-(-self.order.samples // max(self.batch_size, nominal)) * self.epochs,
        )
        self._setup_scheduler()  # type: ignore[no-untyped-call]
        DetectionValidator._check_max_det(
            self.args, {"train": self.train_loader.dataset, "val": self.test_loader.dataset}
        )
        self.model.set_head_attr(max_det=self.args.max_det)

    def _build_data(self) -> None:
        process, settings = self.group.process, self.settings
        common: dict[str, Any] = {
            "imgsz": self.args.imgsz, "stride": self.stride, "data": self.data, "task": "detect",
            "cache": settings.cache, "prefix": "",
        }  # fmt: skip
        if not process.is_main:
            self.group.most([0])  # the main process scans first and leaves its findings beside the labels
        train = CountedDataset(
            self.source.train,
            seed=settings.seed,
            close_mosaic_at=self.epochs - self.args.close_mosaic if self.args.close_mosaic else self.epochs,
            hyp=self.args,
            batch_size=settings.batch,
            **common,
        )
        share = max(2 * settings.batch // process.world, 1)
        val = ListedDataset(
            self.source.val, hyp=self.args, augment=False, rect=True, pad=0.5, batch_size=share, **common
        )
        if process.is_main:
            self.group.most([0])
        for dataset, listed in ((train, self.source.train), (val, self.source.val)):
            _check_all_read(dataset, listed)
        self.order = Order(seed=settings.seed, samples=len(train), batch=settings.batch)
        # Ultralytics asks the loader of the training for its data set alone; ``trainer.loop`` makes the real one.
        self.train_loader = SimpleNamespace(dataset=train)
        self.test_loader = build_dataloader(
            val,
            batch=share,
            workers=(settings.workers_per_device or 0) if self.device.type == "cpu" else 2,
            shuffle=False,
            rank=process.rank if process.world > 1 else -1,
            device=self.device,
        )

    def description(self) -> Mapping[str, Any]:
        """The model description of the network."""
        module: Any = unwrap_model(self.model)
        content: Mapping[str, Any] = module.yaml
        return content


def _overrides(settings: TrainSettings, group: Group, nms_free: bool) -> dict[str, Any]:
    """The settings in Ultralytics' words."""
    rate = settings.lr0 or (0.001 if settings.optimizer in _ADAM else 0.01)
    return {
        "task": "detect",
        "mode": "train",
        "model": settings.model or str(settings.weights),
        "data": str(settings.data),
        "epochs": settings.epochs,
        "batch": settings.batch,
        "imgsz": settings.imgsz,
        "device": "cpu" if group.device.type == "cpu" else str(group.device.index),
        # Each process would remove the results.csv that is there, and one of them find it gone.
        "save_dir": str((settings.run if group.process.is_main else settings.run / "weights").absolute()),
        "exist_ok": True,
        "seed": settings.seed,
        "deterministic": True,
        # Its check would download a model; ``_setup_precision`` sets it.
        "amp": False,
        # Ultralytics knows it for CUDA alone, and warns; ``_setup_train`` sets it for any device.
        "channels_last": settings.channels_last and group.device.type == "cuda",
        # They would download a font.
        "plots": False,
        "verbose": False,
        "patience": settings.patience,
        "optimizer": settings.optimizer,
        "lr0": rate * scale_of_rate(settings),
        "lrf": settings.lrf,
        # A head that needs no suppression is served so and is validated so.
        "nms": False if nms_free else None,
        **settings.hyperparameters,
    }


def scale_of_rate(settings: TrainSettings) -> float:
    """What --scale-lr multiplies the learning rate by: gradients of smaller batches are gathered instead.

    Raises:
        SpecError: it does not go with the optimizer that chooses its own rate.
    """
    if settings.scale_lr == "none":
        return 1.0
    if settings.optimizer == "auto":
        raise SpecError("--scale-lr goes with --optimizer: 'auto' chooses its own rate; add, for example, SGD.")
    times = max(settings.batch / float(settings.hyperparameters.get("nbs", 64)), 1.0)
    return times if settings.scale_lr == "linear" else times**0.5


def _check_all_read(dataset: YOLODataset, listed: tuple[Path, ...]) -> None:
    """Ultralytics leaves out with a warning what it cannot read: the run would be on other data than asked for."""
    lost = sorted({str(path) for path in listed} - set(dataset.im_files))
    if lost:
        raise DataError(
            f"{len(lost)} of {len(listed)} images cannot be trained on, such as {lost[0]}: it is damaged, smaller than "
            "10 pixels or no image of its format. Mend or remove them."
        )
