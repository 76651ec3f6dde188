"""The same training from the same random weights, with a teacher and without, for several seeds.

Every training is a run of ``trainer`` in a folder of its own: what was interrupted goes on, what is finished is read.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.distillation.report import DistillationReport, Row
from benchmarks.machine import environment
from benchmarks.reporting import check_behind
from builder.errors import SpecError
from builder.training_run import FITNESS, RUN_RECORD

ALONE = "without a teacher"
_OURS = frozenset({"--run", "--seed", "--teacher", "--resume", "--distil-weight", "--distil-temperature"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Taught:
    """How a teacher is listened to."""

    name: str
    """As it was asked for, or ``default``."""
    arguments: tuple[str, ...]
    """Of ``python -m trainer train``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillationOptions:
    """One run of the benchmark."""

    teacher: Path
    seeds: tuple[int, ...]
    taught: tuple[Taught, ...]
    folder: Path
    train: tuple[str, ...]
    """Arguments of ``python -m trainer train``."""


def taught_of(text: str) -> Taught:
    """Of ``boxes=2,temperature=2``.

    Raises:
        SpecError: a part is no NAME=X; the trainer checks the names and numbers.
    """
    words: list[str] = []
    for part in filter(None, text.split(",")):
        name, sign, value = part.partition("=")
        if not sign or not name.isalpha():
            raise SpecError(f"--distil {text}: expected NAME=X,… of logits, boxes, features and temperature.")
        words += ["--distil-temperature", value] if name == "temperature" else ["--distil-weight", part]
    return Taught(name=text or "default", arguments=tuple(words))


def measure_distillation(
    options: DistillationOptions, argv: Sequence[str], progress: Callable[[str], None]
) -> DistillationReport:
    """Train what is not trained yet; every training is checked before the first begins.

    Raises:
        SpecError: a training is wrong, or a folder holds another one.
        WeightsError: the teacher is no detector.
    """
    from builder.weights import find_weights, load_network

    check_behind(options.train, _OURS)
    manners = [(ALONE, "alone", ())] + [
        (each.name, each.name, ("--teacher", str(options.teacher), *each.arguments)) for each in options.taught
    ]
    for _, folder, more in manners:
        for seed in options.seeds:
            _settings(options, seed, folder, more)
    load_network(find_weights(options.teacher))
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in manners}
    last: dict[str, Any] = {}
    for seed in options.seeds:
        for name, folder, more in manners:
            progress(f"seed {seed}: {name}")
            last = _record(options, seed, folder, more, progress)
            figures[name].append((last["last"][FITNESS], 1e3 * last["seconds"] / last["steps"]))
    rows = tuple(
        Row(name=name, accuracy=tuple(a for a, _ in values), step_ms=tuple(s for _, s in values))
        for name, values in figures.items()
    )
    return DistillationReport(
        teacher=options.teacher.name,
        model=str(last["start"]["model"]),
        train_images=int(last["data"]["train"]),
        val_images=int(last["data"]["val"]),
        imgsz=int(last["arguments"]["imgsz"]),
        epochs=int(last["epochs"]),
        steps=int(last["steps"]),
        seeds=options.seeds,
        rows=rows,
        environment=environment(argv),
    )


def _settings(options: DistillationOptions, seed: int, folder: str, more: Sequence[str]) -> Any:
    """The training's settings, or those of the one that its folder has begun.

    Raises:
        SpecError: they are wrong, or the folder holds another training.
    """
    from trainer.cli import parser
    from trainer.train_command import settings_of

    run = options.folder / f"seed-{seed}" / folder
    begun = ("--resume",) if run.is_dir() and any(run.iterdir()) else ()
    words = ["train", *options.train, "--run", str(run), "--seed", str(seed), *more, *begun]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            arguments = parser().parse_args(words)
        except SystemExit as e:
            raise SpecError(f"behind --: {said.getvalue().strip().rpartition('error: ')[2]}") from e
    return settings_of(arguments)[0]


def _record(
    options: DistillationOptions, seed: int, folder: str, more: Sequence[str], progress: Callable[[str], None]
) -> dict[str, Any]:
    """run.json of one training, which is run unless it is finished."""
    from trainer.run import train

    settings = _settings(options, seed, folder, more)
    path = settings.run / RUN_RECORD
    if not path.exists():
        train(settings, say=progress)
    record: dict[str, Any] = json.loads(path.read_bytes())
    return record
