"""Parts of the network that do not learn, in stages.

    backbone:0-5,neck:0-2     layers 0 to 5 of the backbone and 0 to 2 of the neck, from the first epoch on
    backbone@4                the whole backbone, from epoch 4 on (epochs count from 1)
    none@10                   nothing, from epoch 10 on

Each ``--freeze`` is a stage, which ends where the next begins. The neck is what lies between the backbone and the head
that detects; ``head`` is that. Batch norm of a frozen layer keeps its statistics.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import SpecError

if TYPE_CHECKING:
    from torch import nn

_PART = re.compile(r"(backbone|neck|head)(?::(\d+)(?:-(\d+))?)?")
_ALWAYS = ".dfl."
"""The fixed weights by which Ultralytics takes the mean of a distribution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """What is frozen from an epoch on."""

    epoch: int
    """From 0."""
    layers: frozenset[int]
    """Places in the network."""
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How many layers the parts of a network have."""

    backbone: int
    neck: int

    def places(self, part: str, first: str | None, last: str | None) -> range:
        """The places of a part's layers.

        Raises:
            SpecError: the part has no such layer.
        """
        start, size = {"backbone": (0, self.backbone), "neck": (self.backbone, self.neck)}.get(
            part, (self.backbone + self.neck, 1)
        )
        low = int(first) if first is not None else 0
        high = int(last) if last is not None else low if first is not None else size - 1
        if not low <= high < size:
            raise SpecError(f"--freeze {part}:{low}-{high}: the {part} has the layers 0 to {size - 1}.")
        return range(start + low, start + high + 1)


def layout_of(description: Any) -> Layout:
    """The parts of a model description."""
    return Layout(backbone=len(description["backbone"]), neck=len(description["head"]) - 1)


def stages_of(texts: Sequence[str], layout: Layout, epochs: int) -> tuple[Stage, ...]:
    """The stages of a training, in order, beginning with the first epoch.

    Raises:
        SpecError: a stage is malformed, names what is not there, or begins after the last epoch or with another.
    """
    stages: dict[int, Stage] = {}
    for text in texts:
        parts, at, number = text.partition("@")
        if at and not (number.isdigit() and 1 <= int(number) <= epochs):
            raise SpecError(f"--freeze {text}: expected an epoch from 1 to {epochs} after the @, got {number!r}.")
        epoch = int(number) - 1 if at else 0
        if epoch in stages:
            raise SpecError(
                f"--freeze {text}: {stages[epoch].text!r} begins with the same epoch; join them by a comma."
            )
        stages[epoch] = Stage(epoch=epoch, layers=_layers(parts, layout, text), text=parts.strip())
    stages.setdefault(0, Stage(epoch=0, layers=frozenset(), text="none"))
    for stage in stages.values():
        if len(stage.layers) == layout.backbone + layout.neck + 1:
            raise SpecError(f"--freeze {stage.text}: nothing would be left to learn; freeze less.")
    return tuple(stages[epoch] for epoch in sorted(stages))


def stage_at(stages: Sequence[Stage], epoch: int) -> Stage:
    """The stage that an epoch belongs to."""
    return max((stage for stage in stages if stage.epoch <= epoch), key=lambda stage: stage.epoch)


def apply_stage(model: nn.Module, stage: Stage) -> str:
    """Let the stage's layers be still and all others learn; a sentence that tells it."""
    still = 0
    for name, parameter in model.named_parameters():
        frozen = _ALWAYS in name or int(name.split(".")[1]) in stage.layers
        parameter.requires_grad_(not frozen)
        parameter.grad = None if frozen else parameter.grad
        still += parameter.numel() if frozen else 0
    total = sum(parameter.numel() for parameter in model.parameters())
    what = f"frozen: {stage.text}" if stage.layers else "nothing is frozen"
    return f"epoch {stage.epoch + 1}: {what} ({total - still:,} of {total:,} parameters learn)"


def still_statistics(model: Any, stage: Stage) -> None:
    """Keep the batch norm of frozen layers as it is; after ``model.train()``."""
    from torch.nn.modules.batchnorm import _BatchNorm

    for place in stage.layers:
        for layer in model.model[place].modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()


def _layers(parts: str, layout: Layout, text: str) -> frozenset[int]:
    if parts.strip() == "none":
        return frozenset()
    layers: set[int] = set()
    for part in parts.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise SpecError(
                f"--freeze {text}: expected parts such as backbone, backbone:0-5, neck:0-2 or head, joined by commas "
                f"and followed by @EPOCH where they begin later, or none@EPOCH; got {part.strip()!r}."
            )
        layers.update(layout.places(*match.groups()))
    return frozenset(layers)
