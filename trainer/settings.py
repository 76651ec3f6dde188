"""What a training is asked for, as one value that a run's folder and its checkpoints keep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.errors import SpecError

MANNER = frozenset(
    {
        "data", "run", "resume", "devices", "workers_per_device", "threads", "cache", "save_steps", "save_minutes",
        "grace_s", "keep_last", "keep_every", "max_restarts", "patience", "validate_every", "stores", "store_key_file",
        "teacher",
    }
)  # fmt: skip
"""What may change from one part of a run to the next; everything else is the run itself.

The data set and the teacher may lie elsewhere: their hashes are compared."""
TUNABLE = frozenset(
    {
        "momentum", "weight_decay", "warmup_epochs", "warmup_momentum", "warmup_bias_lr", "box", "cls", "dfl", "cls_pw",
        "nbs", "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr",
        "bgr", "mosaic", "mixup", "cutmix", "copy_paste", "close_mosaic", "multi_scale", "cos_lr",
    }
)  # fmt: skip
"""Ultralytics' hyperparameters that ``--set NAME=VALUE`` takes."""
FRACTIONS = frozenset(
    {
        "lr0", "lrf", "cls_pw", "momentum", "weight_decay", "warmup_momentum", "warmup_bias_lr", "hsv_h", "hsv_s",
        "hsv_v", "translate", "perspective", "flipud", "fliplr", "bgr", "mosaic", "mixup", "cutmix", "copy_paste",
        "multi_scale",
    }
)  # fmt: skip
"""What Ultralytics takes from 0 to 1 only."""
_LARGEST = {"seed": 2**32 - 1, "threads": 1024}
"""numpy's largest seed; more threads than any machine has."""
_LEAST = {"nbs": 1, "close_mosaic": 0}
"""Images of a nominal batch; epochs without mosaic."""
OPTIMIZERS = ("auto", "SGD", "MuSGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop")
PRECISIONS = ("fp32", "fp16", "bf16")
LR_SCALES = ("none", "linear", "sqrt")
DISTIL_WEIGHTS: Mapping[str, float] = {"logits": 1.0, "boxes": 1.0, "features": 0.0}
"""What of a teacher is learnt, where ``--distil-weight`` does not say otherwise; 1: it counts as much as the labels."""
_PATHS = ("data", "run", "weights", "store_key_file", "teacher")
_LISTS = ("freeze", "stores")
_FLAGS = {"hyperparameters": "--set", "stores": "--store", "distil_weights": "--distil-weight"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """One training."""

    data: Path
    """An Ultralytics data.yaml with the splits train and val."""
    run: Path
    """The folder that the run writes to."""
    weights: Path | None = None
    """A .pt to start from."""
    model: str | None = None
    """A model description, where the weights have none or the start is random."""
    allow_partial: bool = False
    """Take what fits of weights of another network."""
    epochs: int = 100
    batch: int = 16
    """Images of a step, of all processes together."""
    imgsz: int = 640
    """Pixels of the square input's side."""
    devices: str = "cpu"
    """``cpu``, GPUs as ``0,1``, or ``cpu,cpu``: a process each."""
    workers_per_device: int | None = None
    """Processes that load data, for each process that trains; None: measured."""
    threads: int | None = None
    """Threads of each training process on a CPU; None: the cores shared out."""
    cache: str | None = None
    """Keep decoded images in ``ram`` or on ``disk``."""
    seed: int = 0
    precision: str = "fp32"
    channels_last: bool = False
    """Another order in memory. On a CPU a step is faster, its batch norm less exact: torch adds up in FP32 there."""
    optimizer: str = "auto"
    lr0: float | None = None
    """Learning rate after warm-up; None: Ultralytics' own for the optimizer."""
    lrf: float = 0.01
    """The last learning rate as a part of the first."""
    scale_lr: str = "none"
    """How the learning rate grows where the batch is larger than the nominal one (nbs, 64)."""
    freeze: tuple[str, ...] = ()
    """Stages, see ``trainer.freezing``."""
    patience: int = 100
    """Epochs without a better validation after which the training ends; 0: never."""
    validate_every: int = 1
    """Epochs from one validation to the next; the last epoch is always validated."""
    save_steps: int | None = None
    save_minutes: float | None = 15.0
    grace_s: float = 30.0
    """From a signal to the end."""
    keep_last: int = 3
    keep_every: int | None = None
    """Epochs whose checkpoints are kept for good: multiples of it."""
    stores: tuple[str, ...] = ()
    """Addresses of fsspec that checkpoints are copied to."""
    store_key_file: Path | None = None
    """Holds the key by which the copies are encrypted; None: the environment's, or they are not."""
    max_restarts: int = 0
    """How often processes that died are started anew."""
    half: bool = False
    """Write weights/*.pt in FP16, as Ultralytics does."""
    resume: bool = False
    hyperparameters: Mapping[str, float] = field(default_factory=dict)
    """Ultralytics' own, by name (TUNABLE)."""
    teacher: Path | None = None
    """A .pt whose predictions are learnt beside the labels."""
    teacher_sha256: str | None = None
    """Of its file; found when the run begins."""
    distil_weights: Mapping[str, float] = field(default_factory=dict)
    """Otherwise than in DISTIL_WEIGHTS."""
    distil_temperature: float = 1.0
    """Above 1 softens what the teacher says."""

    def __post_init__(self) -> None:
        """Refuse what no training can be.

        Raises:
            SpecError: a value is out of range, or the start is missing.
        """
        for name in ("epochs", "batch", "imgsz", "validate_every", "keep_last"):
            _at_least(name, getattr(self, name), 1)
        for name in ("workers_per_device", "seed", "patience", "max_restarts"):
            _at_least(name, getattr(self, name), 0)
        for name in ("threads", "save_steps", "keep_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("lr0", "lrf", "grace_s", "save_minutes", "distil_temperature"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SpecError(f"{flag(name)}: expected a finite number above 0, got {value:g}.")
        if self.imgsz % 32:
            near = max(32, round(self.imgsz / 32) * 32)
            raise SpecError(f"--imgsz: expected a multiple of 32 pixels, got {self.imgsz}; the nearest is {near}.")
        for name, choices in (("optimizer", OPTIMIZERS), ("precision", PRECISIONS), ("scale_lr", LR_SCALES)):
            if getattr(self, name) not in choices:
                raise SpecError(f"{flag(name)}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}.")
        if self.cache not in (None, "ram", "disk"):
            raise SpecError(f"--cache: expected ram or disk, got {self.cache!r}.")
        if self.lr0 is not None and self.optimizer == "auto":
            raise SpecError("--lr0 goes with --optimizer: 'auto' chooses both; add, for example, --optimizer AdamW.")
        for name, most in _LARGEST.items():
            _at_most(name, getattr(self, name), most)
        if unknown := sorted(set(self.hyperparameters) - TUNABLE):
            raise SpecError(f"--set {unknown[0]}=…: no such hyperparameter; there are: {', '.join(sorted(TUNABLE))}.")
        _check_values(self)
        _check_distillation(self)
        _check_key(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values; paths as text."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        values |= {name: list(values[name]) for name in _LISTS}
        values |= {name: dict(values[name]) for name in ("hyperparameters", "distil_weights")}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def settings_from_json(values: Mapping[str, Any]) -> TrainSettings:
    """What ``to_json`` gave; fields of a later release are left out."""
    known = {each.name for each in dataclasses.fields(TrainSettings)}
    content = {name: value for name, value in values.items() if name in known}
    content |= {name: Path(content[name]) for name in _PATHS if content.get(name) is not None}
    return TrainSettings(**(content | {name: tuple(content.get(name, ())) for name in _LISTS}))


def merged(stored: TrainSettings, given: Mapping[str, Any]) -> tuple[TrainSettings, tuple[str, ...]]:
    """The settings of a run that goes on, and what changes, a line each.

    Raises:
        SpecError: something given would make it another run.
    """
    changes = []
    for name, value in given.items():
        before = getattr(stored, name)
        if before == value or name in ("run", "resume"):
            continue
        if name not in MANNER or (name == "teacher" and before is None):
            raise SpecError(
                f"{flag(name)} {_shown(value)}: the run was begun with {_shown(before)}. Leave it out to go on, or "
                f"begin another run, for example from --weights {given.get('run', stored.run)}/weights/last.pt."
            )
        changes.append(f"{flag(name)}: {_shown(value)}, was {_shown(before)}")
    return dataclasses.replace(stored, **given), tuple(changes)


def flag(name: str) -> str:
    """A setting as the command line calls it."""
    return _FLAGS.get(name, f"--{name.replace('_', '-')}")


def _at_most(name: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise SpecError(f"{flag(name)}: expected a whole number of {most} or less, got {value}.")


def check_value(name: str, value: float, called: str) -> None:
    """Pass where Ultralytics takes ``value``; the message says ``called`` for the name.

    Raises:
        SpecError: it does not.
    """
    if not math.isfinite(value) or (name in FRACTIONS and not 0 <= value <= 1):
        what = "a value from 0 to 1" if name in FRACTIONS else "a finite number"
        raise SpecError(f"{called}: expected {what}, got {value!r}.")
    if name in _LEAST and value < _LEAST[name]:
        raise SpecError(f"{called}: expected a whole number of {_LEAST[name]} or more, got {value!r}.")


def _check_values(settings: TrainSettings) -> None:
    rates = {name: getattr(settings, name) for name in ("lr0", "lrf")}
    for name, value in rates.items():
        if value is not None:
            check_value(name, value, called=flag(name))
    for name, value in settings.hyperparameters.items():
        check_value(name, value, called=f"--set {name}")


def _check_key(settings: TrainSettings) -> None:
    if settings.store_key_file is not None and not settings.stores:
        raise SpecError("--store-key-file goes with --store: add where the copies go, or leave it out.")


def _check_distillation(settings: TrainSettings) -> None:
    given = settings.distil_weights
    if settings.teacher is None:
        if given or settings.distil_temperature != 1.0:
            name = "distil_weights" if given else "distil_temperature"
            raise SpecError(f"{flag(name)} goes with --teacher: add the weights to learn from, or leave it out.")
        return
    for name, value in given.items():
        if name not in DISTIL_WEIGHTS or not (math.isfinite(value) and value >= 0):
            raise SpecError(
                f"--distil-weight {name}={value:g}: expected a finite number from 0 for one of "
                f"{', '.join(DISTIL_WEIGHTS)}."
            )
    if not any({**DISTIL_WEIGHTS, **given}.values()):
        raise SpecError("--distil-weight: every weight is 0, the teacher would teach nothing; leave --teacher out.")


def _shown(value: object) -> str:
    return "its default" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise SpecError(f"{flag(name)}: expected a whole number of {least} or more, got {value}.")
