"""``python -m trainer train``: its arguments and what it prints."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.errors import SpecError
from trainer.run_folder import held, holds_run, nothing_left_behind, stored_settings
from trainer.settings import DISTIL_WEIGHTS, LR_SCALES, OPTIMIZERS, PRECISIONS, TUNABLE, TrainSettings, merged

HELP = "train a detector; interrupted, it goes on with --resume"
_WHOLE = frozenset({"nbs", "close_mosaic"})


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments; those left out are None, so that a run that goes on keeps its own."""
    add = command.add_argument
    add("--run", type=Path, required=True, metavar="DIR", help="the run's folder")
    add("--resume", action="store_true", help="go on from the run's newest checkpoint that verifies")
    start = command.add_argument_group("what to train")
    start.add_argument("--data", type=Path, metavar="YAML", help="an Ultralytics data.yaml with train and val")
    start.add_argument("--weights", type=Path, metavar="FILE.pt", help="start from these; other classes are welcome")
    start.add_argument("--model", metavar="YAML", help="a model description: yolo11n.yaml, or a file; random weights")
    start.add_argument("--allow-partial", action="store_true", default=None, help="take what fits of the weights")
    start.add_argument("--freeze", action="append", metavar="PARTS[@EPOCH]",
                       help="backbone:0-5,neck:0-2, backbone, head, none; a stage each time")  # fmt: skip
    how = command.add_argument_group("how to train")
    how.add_argument("--epochs", type=int, metavar="N", help="(default: 100)")
    how.add_argument("--batch", type=int, metavar="N", help="images of a step, of all processes together (default: 16)")
    how.add_argument("--imgsz", type=int, metavar="PX", help="side of the square input (default: 640)")
    how.add_argument("--seed", type=int, metavar="N", help="(default: 0)")
    how.add_argument("--precision", choices=PRECISIONS, help="of forward and backward (default: fp32)")
    how.add_argument("--channels-last", action="store_true", default=None,
                     help="faster on a CPU (some 15 %%), with less exact batch norm")  # fmt: skip
    how.add_argument("--optimizer", choices=OPTIMIZERS, help="(default: auto)")
    how.add_argument("--lr0", type=float, metavar="RATE", help="learning rate after warm-up")
    how.add_argument("--lrf", type=float, metavar="PART", help="the last learning rate as a part of it (default: 0.01)")
    how.add_argument("--scale-lr", choices=LR_SCALES,
                     help="grow the rate with batch / nbs where that is above 1 (default: none)")  # fmt: skip
    how.add_argument("--patience", type=int, metavar="EPOCHS", help="without a better one, then stop (default: 100)")
    how.add_argument("--validate-every", type=int, metavar="EPOCHS", help="(default: 1)")
    how.add_argument("--set", action="append", metavar="NAME=VALUE", dest="hyperparameters",
                     help="a hyperparameter of Ultralytics', such as mosaic=0.5")  # fmt: skip
    how.add_argument("--half", action="store_true", default=None, help="write weights/*.pt in FP16")
    _add_teacher(command.add_argument_group("a small network that learns from a large one"))
    where = command.add_argument_group("where")
    where.add_argument("--devices", metavar="LIST", help="cpu, cpu,cpu or GPUs as 0,1: a process each (default: cpu)")
    where.add_argument("--workers-per-device", type=int, metavar="N", help="that load data (default: measured)")
    where.add_argument("--threads", type=int, metavar="N", help="of a process on a CPU (default: the cores shared)")
    where.add_argument("--cache", choices=("ram", "disk"), help="keep decoded images")
    where.add_argument("--max-restarts", type=int, metavar="N", help="of processes that died (default: 0)")
    where.add_argument("--ray", metavar="ADDRESS",
                       help="train in workers of Ray: local, auto, or HOST:PORT of a cluster")  # fmt: skip
    where.add_argument("--num-workers", type=int, metavar="N", help="of them; each on one of --devices cpu or 0")
    keep = command.add_argument_group("what is kept; a checkpoint at the end of each epoch always is")
    keep.add_argument("--save-steps", type=int, metavar="N", help="a checkpoint every N steps")
    keep.add_argument("--save-minutes", type=float, metavar="M", help="and every M minutes (default: 15)")
    keep.add_argument("--grace-s", type=float, metavar="S", help="from SIGTERM or SIGINT to the end (default: 30)")
    keep.add_argument("--keep-last", type=int, metavar="K", help="newest checkpoints (default: 3)")
    keep.add_argument("--keep-every", type=int, metavar="M", help="and those of every M-th epoch")
    keep.add_argument("--store", action="append", metavar="ADDRESS", dest="stores",
                      help="copy them there too: s3://bucket/dir, gs://, oss://, file://; may be repeated")  # fmt: skip
    keep.add_argument("--store-key-file", type=Path, metavar="FILE",
                      help="encrypt the copies: 64 hexadecimal digits (default: TRAINER_STORE_KEY)")  # fmt: skip


def _add_teacher(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--teacher", type=Path, metavar="FILE.pt", help="learn its predictions beside the labels")
    group.add_argument("--distil-weight", action="append", metavar="NAME=X", dest="distil_weights",
                       help="logits, boxes (default: 1, as much as the labels) or features (default: 0)")  # fmt: skip
    group.add_argument("--distil-temperature", type=float, metavar="T", help="above 1: softer (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Train; 0 when the training has come to its end."""
    with held(arguments.run):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from trainer.distribution import check_devices, parse_devices
    from trainer.launch import asked_by_its_end, launch

    settings, changes = settings_of(arguments)
    if arguments.ray is not None:
        from trainer.ray_training import train_on_ray

        if arguments.num_workers is None or arguments.num_workers < 1:
            raise SpecError(f"--ray goes with --num-workers of 1 or more, got {arguments.num_workers}.")
        for change in changes:
            _say(f"changed: {change}")
        with nothing_left_behind(settings.run):  # by workers that die before they can
            train_on_ray(settings, address=arguments.ray, workers=arguments.num_workers, say=_say)
        return 0
    if arguments.num_workers is not None:
        raise SpecError("--num-workers goes with --ray; without it --devices names a process each, such as cpu,cpu.")
    devices = parse_devices(settings.devices)
    check_devices(devices)
    if devices.processes > 1 and "WORLD_SIZE" not in os.environ:
        with nothing_left_behind(settings.run):
            return launch(
                arguments.argv,
                processes=devices.processes,
                max_restarts=settings.max_restarts,
                grace_s=settings.grace_s,
            )
    from trainer.interruption import Interruption
    from trainer.run import train

    for change in changes:
        _say_on_main(f"changed: {change}")
    interruption = Interruption(settings.grace_s)
    with interruption.asked_by(asked_by_its_end):
        train(settings, say=_say, interruption=interruption)
    return 0


def settings_of(arguments: argparse.Namespace) -> tuple[TrainSettings, tuple[str, ...]]:
    """The request, with what a run that goes on was begun with; and what changes of it, a line each.

    Raises:
        SpecError: the request is wrong, or would overwrite a run or make it another.
    """
    given = given_settings(arguments)
    resume = arguments.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    folder: Path = arguments.run
    if resume:
        if (stored := stored_settings(folder)) is not None:
            return merged(stored, {**given, "run": folder, "resume": True})
    elif folder.exists() and not folder.is_dir():
        raise SpecError(f"--run {folder} is a file: expected the folder of a run.")
    elif folder.exists() and any(folder.iterdir()):
        way = "go on with it by --resume" if holds_run(folder) else "it holds no run; remove what is in it"
        raise SpecError(f"--run {folder} is not empty: {way}, or name another folder.")
    if "data" not in given:
        what = f"{folder} holds no run to go on with; expected" if resume else "expected"
        raise SpecError(f"{what} --data data.yaml, and --weights or --model to start from.")
    if "weights" not in given and "model" not in given:
        raise SpecError("expected what to start from: --weights FILE.pt, or --model yolo11n.yaml for random ones.")
    return TrainSettings(**given, resume=resume), ()


def given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line gives of a training's settings, by name."""
    names = TrainSettings.__dataclass_fields__
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    given.pop("resume", None)
    given |= {name: tuple(given[name]) for name in ("freeze", "stores") if name in given}
    if "hyperparameters" in given:
        given["hyperparameters"] = _hyperparameters(given["hyperparameters"])
    if "distil_weights" in given:
        given["distil_weights"] = dict(_distil_weight(text) for text in given["distil_weights"])
    return given


def _hyperparameters(texts: list[str]) -> Mapping[str, float]:
    values: dict[str, float] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or name not in TUNABLE:
            raise SpecError(f"--set {text}: expected NAME=VALUE with a NAME of {', '.join(sorted(TUNABLE))}.")
        try:
            values[name] = value == "true" if name == "cos_lr" else int(value) if name in _WHOLE else float(value)
        except ValueError as e:
            raise SpecError(f"--set {text}: expected a number, got {value!r}.") from e
    return values


def _distil_weight(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as e:
        raise SpecError(f"--distil-weight {text}: expected NAME=X with a NAME of {', '.join(DISTIL_WEIGHTS)}.") from e


def _say(line: str) -> None:
    # A progress line may stand where this one begins.
    print(f"\r\033[K{line}" if sys.stdout.isatty() else line, flush=True)


def _say_on_main(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        _say(line)
