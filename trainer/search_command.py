"""``python -m trainer search``: its arguments and what it prints."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.durable import make_folders
from builder.errors import SpecError
from builder.signals import Interruption, interrupted_by
from trainer import train_command
from trainer.errors import TrainingError
from trainer.ray_runtime import LOCAL, started_ray
from trainer.run_folder import held
from trainer.settings import MANNER, TrainSettings, flag

if TYPE_CHECKING:
    from trainer.search.record import EarlyStopping, Room, Search, Share

HELP = "try settings in trainings side by side, and stop early those that fall behind"
_REFUSED = {
    "devices": "--gpus-per-trial gives each trial its GPUs, none leaves it on the CPU",
    "threads": "--cpus-per-trial gives each trial its threads",
    "max_restarts": "a trial that was cut goes on with --resume",
    "num_workers": "a trial is one process",
    "stores": "the best settings are trained whole with it afterwards",
    "store_key_file": "the best settings are trained whole with it afterwards",
}
"""Arguments of a training that a search does not take, each with what there is instead."""
_HELP = {
    "run": "the search's folder",
    "resume": "go on with a search that was cut; what has ended is not repeated",
    "ray": "local, auto, or HOST:PORT of a cluster (default: local)",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments: those of a training, and the search's."""
    train_command.add_arguments(command)
    for action in command._actions:
        action.help = argparse.SUPPRESS if action.dest in _REFUSED else _HELP.get(action.dest, action.help)
    search = command.add_argument_group("what is searched; everything else is as in a training")
    search.add_argument("--space", type=Path, metavar="YAML",
                        help="settings and what they may be, such as 'lr0: {loguniform: [1e-4, 1e-2]}'")  # fmt: skip
    search.add_argument("--trials", type=int, metavar="N", help="trainings in all; with --resume more may be asked for")
    search.add_argument("--early-stopping", choices=("asha", "none"), help="(default: asha)")
    search.add_argument("--first-rung", type=int, metavar="EPOCHS",
                        help="trials are compared first after these (default: a ninth of all)")  # fmt: skip
    search.add_argument("--reduction", type=int, metavar="N",
                        help="one of N goes on, for N times the epochs (default: 3)")  # fmt: skip
    share = command.add_argument_group("what a trial has of the machine")
    share.add_argument("--trials-at-once", type=int, metavar="K", help="(default: as many as there is room for)")
    share.add_argument("--cpus-per-trial", type=int, metavar="N", help="threads (default: cores / trials at once)")
    share.add_argument("--gpus-per-trial", type=float, metavar="N", default=0.0, help="or a part of one (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Search; 0 when every trial is over and one of them at least has ended as it should."""
    if importlib.util.find_spec("ray") is None:
        raise SpecError("search needs Ray Tune, which is not installed: pip install 'yolo-triton[ray]'.")
    search = search_of(arguments)
    _check_share(arguments)
    with interrupted_by(signal.SIGTERM, signal.SIGINT) as interruption, contextlib.ExitStack() as undo:
        make_folders(search.folder, undo)
        undo.enter_context(held(search.folder, "search"))
        if not all(trial.state.over for trial in search.trials):
            _run_trials(search, arguments, interruption)
        return _finish(search)


def _run_trials(search: Search, arguments: argparse.Namespace, interruption: Interruption) -> None:
    from trainer.search.record import Room

    address, cores = arguments.ray or LOCAL, len(os.sched_getaffinity(0))
    own = address == LOCAL and not arguments.gpus_per_trial
    share = _share(arguments, Room(cpus=cores, cpus_of_one=cores, gpus=0), len(search.trials))
    given_away = {"cpus": share.at_once * share.cpus, "gpus": 0} if own else {}
    with started_ray(address, **given_away):
        from trainer.search.tuning import check_share, room, run_trials

        if not own:
            share = _share(arguments, room(), len(search.trials))
        check_share(share)
        interruption.check()
        search.write()
        _say(_plan(search, share))
        run_trials(search, share, interruption, _say)


def search_of(arguments: argparse.Namespace) -> Search:
    """The search that is asked for, with every trial's settings checked; or the one that goes on.

    Raises:
        SpecError: the request, the space or a trial's settings are wrong, or it would make the search another.
        DataError: the data cannot be trained on.
        WeightsError: what a trial begins from, or its teacher, is not there or does not fit.
    """
    from trainer.data import read_training_data

    given = train_command.given_settings(arguments)
    if arguments.num_workers is not None:
        given["num_workers"] = arguments.num_workers
    for name in _REFUSED.keys() & given.keys():
        raise SpecError(f"{flag(name)}: a search takes none: {_REFUSED[name]}.")
    given |= {name: Path(given[name]).absolute() for name in ("data", "run", "weights", "teacher") if name in given}
    if "model" in given and Path(given["model"]).exists():
        given["model"] = str(Path(given["model"]).absolute())
    search = _going_on(arguments, given) if arguments.resume else _new(arguments, given)
    data = read_training_data(search.settings.data)
    if search.data_hash not in ("", data.hash):
        raise SpecError(
            f"the data of {search.settings.data} are not those that the search was begun with: give the same data, or "
            "begin another search."
        )
    search.data_hash = data.hash
    settings = {trial.number: search.settings_of(trial) for trial in search.trials}
    _check_starts([settings[trial.number] for trial in search.trials if not trial.state.over], data.names)
    return search


def _check_starts(settings: Sequence[TrainSettings], names: Sequence[str]) -> None:
    """Pass where a training can begin from what each of the trials names, and learn from the teacher it names."""
    from trainer.libraries import quiet_ultralytics

    quiet_ultralytics()
    import torch

    from trainer.starting_weights import starting_weights
    from trainer.teacher import Teacher, with_known_teacher

    for each in {(one.weights, one.model, one.allow_partial, one.teacher): one for one in settings}.values():
        start = starting_weights(weights=each.weights, model=each.model, names=names, allow_partial=each.allow_partial)
        if each.teacher:
            Teacher(with_known_teacher(each), start.module, names, torch.device("cpu"))


def _new(arguments: argparse.Namespace, given: dict[str, Any]) -> Search:
    from trainer.search.record import Search
    from trainer.search.space import read_space

    folder: Path = arguments.run
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(f"--run {folder} is not empty: go on with it by --resume, or name another folder.")
    if arguments.space is None or arguments.trials is None or "data" not in given:
        raise SpecError("expected --space SPACE.yaml, --trials N and --data data.yaml.")
    space = read_space(arguments.space)
    names = {each.name for each in space.dimensions}
    if not {"weights", "model"} & (names | given.keys()):
        raise SpecError("expected what to start from: --weights FILE.pt, or --model yolo11n.yaml for random ones.")
    for name in sorted(names & (given.keys() | given.get("hyperparameters", {}).keys())):
        # A training's arguments, of a file for example, stay as they are where some of them are searched.
        _say(f"{name} is searched: what the command line gives it is not used")
    settings = TrainSettings(**given)
    search = Search(
        folder=given["run"],
        space=space,
        settings=settings,
        early_stopping=_early_stopping(arguments, settings.epochs),
        data_hash="",
        trials=[],
    )
    search.plan(_trials(arguments.trials, 1))
    return search


def _going_on(arguments: argparse.Namespace, given: dict[str, Any]) -> Search:
    from trainer.search.record import read_search
    from trainer.search.space import read_space

    search = read_search(given["run"])
    for name, value in given.items():
        if name != "run" and name not in MANNER and value != (before := getattr(search.settings, name)):
            raise SpecError(
                f"{flag(name)} {value}: the search was begun with {before}; leave it out, or begin another."
            )
    if arguments.space is not None and read_space(arguments.space) != search.space:
        raise SpecError(f"--space {arguments.space} is not that of the search: leave it out, or begin another search.")
    asked = (arguments.early_stopping, arguments.first_rung, arguments.reduction)
    if any(asked) and _early_stopping(arguments, search.settings.epochs) != search.early_stopping:
        raise SpecError("early stopping was begun with other numbers: leave them out, or begin another search.")
    search.settings = dataclasses.replace(search.settings, **given)
    search.plan(_trials(arguments.trials or len(search.trials), len(search.trials)))
    return search


def _trials(asked: int, least: int) -> int:
    if asked < least:
        raise SpecError(f"--trials: expected a whole number of {least} or more, got {asked}.")
    return asked


def _early_stopping(arguments: argparse.Namespace, epochs: int) -> EarlyStopping | None:
    from trainer.search.record import EarlyStopping

    first = max(epochs // 9, 1) if arguments.first_rung is None else arguments.first_rung
    reduction = 3 if arguments.reduction is None else arguments.reduction
    if arguments.early_stopping == "none":
        if arguments.first_rung is not None or arguments.reduction is not None:
            raise SpecError("--first-rung and --reduction are early stopping's: leave out --early-stopping none.")
        return None
    if first < 1 or reduction < 2:
        raise SpecError(
            f"expected --first-rung of 1 or more and --reduction of 2 or more, got {first} and {reduction}."
        )
    if first > epochs:
        raise SpecError(f"--first-rung {first}: the trials have {epochs} epochs; expected as many or fewer.")
    return EarlyStopping(first=first, reduction=reduction)


def _check_share(arguments: argparse.Namespace) -> None:
    for name in ("trials_at_once", "cpus_per_trial"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise SpecError(f"{flag(name)}: expected a whole number of 1 or more, got {value}.")
    gpus = arguments.gpus_per_trial
    if not (0 <= gpus < 1 or gpus == 1):
        raise SpecError(f"--gpus-per-trial: expected 0, 1 or a part of one such as 0.5, got {gpus:g}.")


def _share(arguments: argparse.Namespace, room: Room, trials: int) -> Share:
    """By default as many trials at once as there are cores, or GPUs; the cores are shared out."""
    from trainer.search.record import Share

    at_once, cpus, gpus = arguments.trials_at_once, arguments.cpus_per_trial, arguments.gpus_per_trial
    if at_once is None:
        places = room.gpus / gpus if gpus else room.cpus / (cpus or 1)
        at_once = min(max(int(places), 1), trials)
    return Share(at_once=at_once, cpus=cpus or max(min(room.cpus // at_once, room.cpus_of_one), 1), gpus=gpus)


def _plan(search: Search, share: Share) -> str:
    over = sum(trial.state.over for trial in search.trials)
    gpus = f" and {share.gpus:g} GPU(s)" if share.gpus else ""
    rules = search.early_stopping
    early = f"one of {rules.reduction} goes on from epoch {rules.first}" if rules else "none is stopped early"
    return (
        f"{len(search.trials)} trials, {over} of them over; {share.at_once} at once with {share.cpus} CPU(s){gpus} "
        f"each; {early}"
    )


def _finish(search: Search) -> int:
    """Write what was found, and print it; the exit code."""
    from trainer.search.report import draw, table

    search.write()
    search.write_table()
    draw(search, search.folder / "search.png")
    _say(table(search))
    for trial in search.trials:
        if trial.reason:
            _say(f"trial {trial.number} {trial.state}: {trial.reason}")
    if (best := search.best) is None:
        raise TrainingError("no trial ended as it should: see above, and the .log files beside the trials' folders.")
    import shlex

    if any(not trial.state.over for trial in search.trials):
        _say("what has died is tried again by --resume")
    if best.best is not None and best.best[1] == 0:
        _say("warning: no trial has found an object yet; which one is the best tells nothing: give them more --epochs")
    _say(f"best: trial {best.number}, {search.runs / best.name / 'weights' / 'best.pt'}")
    _say(f"train it whole: {shlex.join(['python', '-m', 'trainer', *search.command(best)])}")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
