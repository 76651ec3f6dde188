"""A trained network that a smaller one learns from: which file it is, whether it fits, and what it predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from builder.errors import WeightsError
from trainer.data import plain_name
from trainer.errors import CheckpointError
from trainer.settings import TrainSettings

if TYPE_CHECKING:
    import torch

Predictions = dict[str, Any]
"""Of one head, as Ultralytics' give them in training: ``boxes`` [N, 4 * bins, A], ``scores`` [N, classes, A] as logits,
``feats`` as [N, C, H, W] per level; N images, A anchors."""


def with_known_teacher(settings: TrainSettings) -> TrainSettings:
    """The settings with the hash of the teacher's file, where they name one.

    Raises:
        CheckpointError: it is another file than the run was begun with.
        WeightsError: there is no such file.
    """
    if settings.teacher is None:
        return settings
    from builder.manifest import record_of
    from builder.weights import find_weights

    path = find_weights(settings.teacher)
    sha256 = record_of(path).sha256
    if settings.teacher_sha256 not in (None, sha256):
        raise CheckpointError(
            f"--teacher {path} has the sha256 {sha256[:12]}…, the run was begun with a teacher of "
            f"{str(settings.teacher_sha256)[:12]}…. Give that one, or begin another run."
        )
    return dataclasses.replace(settings, teacher_sha256=sha256)


class Teacher:
    """Predicts, and does not learn."""

    def __init__(self, settings: TrainSettings, student: Any, names: Sequence[str], device: torch.device) -> None:
        """Load it for a student of the classes ``names``.

        Raises:
            WeightsError: the file is no detector's, or its classes or strides are not the student's.
        """
        import torch

        from builder.weights import find_weights, load_network

        assert settings.teacher is not None, "the settings name a teacher"
        path = find_weights(settings.teacher)
        network = load_network(path)
        module: Any = network.module
        _check(str(path), network.names, module.stride.tolist(), tuple(names), student.stride.tolist())
        module = module.to(device).eval()
        count, own = (sum(p.numel() for p in each.parameters()) for each in (module, student))
        self.report = f"teacher {path}: {count:,} parameters, {count / own:.1f} times the student's"
        if getattr(module.model[-1], "one2one_cv2", None) is None:
            # Of two heads it would leave one.
            module.fuse(verbose=False)
        if settings.channels_last:
            module = module.to(memory_format=torch.channels_last)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self._module = module
        known = [plain_name(each) for each in network.names]
        places = [known.index(plain_name(name)) for name in names]
        self._rows = None if places == sorted(places) else torch.tensor(places, device=device)

    def predictions(self, images_N3HW: torch.Tensor) -> dict[str, Predictions]:
        """What it says of a batch, by head: ``one2many``, and ``one2one`` where it has one."""
        import torch

        with torch.no_grad():
            raw: dict[str, Any] = self._module(images_N3HW)[1]
        heads = {"one2many": raw} if "boxes" in raw else raw
        if self._rows is None:
            return heads
        return {name: {**head, "scores": head["scores"][:, self._rows]} for name, head in heads.items()}


def _check(
    path: str, names: Sequence[str], strides: list[float], wanted_names: Sequence[str], wanted_strides: list[float]
) -> None:
    if sorted(map(plain_name, names)) != sorted(map(plain_name, wanted_names)):
        raise WeightsError(
            f"the teacher {path} knows {_shown(names)}, the data have {_shown(wanted_names)}: a teacher has the "
            "classes of its student. Train one on these data, or leave --teacher out."
        )
    if strides != wanted_strides:
        raise WeightsError(
            f"the teacher {path} predicts at the strides {_numbers(strides)}, the student at "
            f"{_numbers(wanted_strides)}: they have no anchors in common. Take a --model with the teacher's strides."
        )


def _shown(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:8])}{', …' if len(names) > 8 else ''})"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
