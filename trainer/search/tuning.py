"""The trials of a search on Ray Tune, which is imported here: Ray must be running."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError, RayError
from ray.tune.error import TuneError
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from builder.durable import locked
from builder.errors import SpecError
from builder.signals import Interruption
from trainer.errors import TrainingError
from trainer.run_folder import lock_of
from trainer.search.record import Room, Search, Share, State, Trial, shown
from trainer.search.trial import LEAVE, run_trial

_RAYS = "ray"
"""Ray Tune's own folder within the search's, gone when the search has ended."""
_SLACK_S = 15.0
"""What a trial has beyond its own grace before it is left to its end."""
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The search's own handlers stand.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # How a trial ended is told without a figure.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # A trial that was stopped early gives its place up at once.
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def room() -> Room:
    """What Ray has."""
    machines = _machines()
    return Room(
        cpus=int(sum(each.get("CPU", 0) for each in machines)),
        cpus_of_one=int(max((each.get("CPU", 0) for each in machines), default=0)),
        gpus=sum(each.get("GPU", 0) for each in machines),
    )


def check_share(share: Share) -> None:
    """Pass where Ray can give a trial what it wants: it would wait for it forever.

    Raises:
        SpecError: no machine has as much.
    """
    machines = _machines()
    if any(each.get("CPU", 0) >= share.cpus and each.get("GPU", 0) >= share.gpus for each in machines):
        return
    there = "; ".join(f"{each.get('CPU', 0):g} CPU(s) and {each.get('GPU', 0):g} GPU(s)" for each in machines)
    raise SpecError(
        f"--cpus-per-trial {share.cpus} and --gpus-per-trial {share.gpus:g}: no machine of Ray's has both; there is "
        f"{there or 'none'}."
    )


def run_trials(search: Search, share: Share, interruption: Interruption, say: Callable[[str], None]) -> None:
    """Run what is left of a search; every trial that is run is over afterwards, or has died.

    Raises:
        Interrupted: a signal came; the trials that ran have saved their state and left.
        TrainingError: Ray is gone, or the search's own files cannot be written.
    """
    # Begun ones first: early stopping compares with what they have reached.
    left = sorted(
        (trial for trial in search.trials if not trial.state.over),
        key=lambda trial: (not trial.history, trial.number),
    )
    if not left:
        return
    search.runs.mkdir(parents=True, exist_ok=True)
    leave = search.runs / LEAVE
    leave.unlink(missing_ok=True)
    requests = {trial.number: _settings_of(search, trial, share) for trial in left}
    with _quiet(), _scratch(search):
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run_trial, requests=requests), {"cpu": share.cpus, "gpu": share.gpus}
            ),
            param_space={"number": tune.grid_search([trial.number for trial in left])},
            tune_config=tune.TuneConfig(scheduler=_scheduler(search), max_concurrent_trials=share.at_once),
            run_config=tune.RunConfig(
                name=_RAYS,
                storage_path=str(search.folder.absolute()),
                verbose=0,
                callbacks=[_Recorded(search, interruption, say)],
            ),
        )
        try:
            tuner.fit()
        except KeyboardInterrupt:
            # What the traceback holds keeps Ray's workers alive until they have saved.
            leave.touch()
            _wait_until_left(search, left, say)
            # Ray puts a KeyboardInterrupt of its own in the place of the one that a handler raises.
            interruption.check()
            raise
        except (TuneError, RayError) as e:
            raise TrainingError(f"Ray Tune gave up: {_last_line(e)}; --resume goes on with the search.") from e


class _Recorded(tune.Callback):
    """Writes down what Tune hears of the trials."""

    def __init__(self, search: Search, interruption: Interruption, say: Callable[[str], None]) -> None:
        self._search, self._interruption, self._say = search, interruption, say
        self._began_s: dict[int, float] = {}

    def on_step_end(self, iteration: int, trials: Sequence[Any], **info: Any) -> None:
        """An exception that a signal raises within a callback of C is lost."""
        self._interruption.check()

    def on_trial_start(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        """Its process is there."""
        mine = self._of(trial)
        self._began_s[mine.number] = time.monotonic() - mine.seconds
        how = f"goes on after epoch {mine.epochs}" if mine.epochs else "begins"
        mine.state, mine.reason = State.BEGUN, None
        self._tell(mine, f"{how}  {shown(mine.values)}")
        self._search.write()

    def on_trial_result(
        self, iteration: int, trials: Sequence[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """An epoch is validated; or the trial says how it ended."""
        if "fitness" in result:
            mine = self._of(trial)
            mine.history[int(result["epoch"])] = float(result["fitness"])
            mine.seconds = time.monotonic() - self._began_s[mine.number]
            self._search.write()

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        """It has ended by itself, or early stopping has ended it."""
        mine, last = self._of(trial), trial.last_result or {}
        ended = last.get("ended", "stopped")
        mine.state = {"done": State.DONE, "failed": State.FAILED, "cut": State.BEGUN}.get(ended, State.STOPPED)
        mine.reason = last.get("reason")
        self._ended(mine)

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        """Its process is gone, or could not be started."""
        mine = self._of(trial)
        mine.state, mine.reason = State.DIED, _reason(trial)
        self._ended(mine)

    def _ended(self, mine: Trial) -> None:
        self._search.write()
        epoch, best = mine.best or (0, 0.0)
        figure = f"  mAP50-95 {best:.4f} in epoch {epoch}" if mine.best else ""
        reason = f": {mine.reason}" if mine.reason else ""
        self._tell(mine, f"{mine.state} after {mine.epochs} epoch(s){figure}{reason}")

    def _tell(self, mine: Trial, text: str) -> None:
        self._say(f"trial {mine.number}/{len(self._search.trials)}  {text}")

    def _of(self, trial: Any) -> Trial:
        number: int = trial.config["number"]
        return self._search.trials[number - 1]


def _machines() -> list[Mapping[str, float]]:
    nodes: Any = ray.nodes  # it has no types
    return [node["Resources"] for node in nodes() if node["Alive"]]


def _scheduler(search: Search) -> TrialScheduler:
    """ASHA, told of the trials that have ended in an earlier part of the search."""
    rules = search.early_stopping
    if rules is None or rules.first >= search.settings.epochs:
        every: Any = FIFOScheduler  # it has no types
        in_turn: TrialScheduler = every()
        return in_turn
    asha = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="fitness",
        mode="max",
        grace_period=rules.first,
        reduction_factor=rules.reduction,
        # After the last epoch there is nothing to spare; and a training that is stopped there writes no run.json.
        max_t=search.settings.epochs - 1,
        stop_last_trials=False,
    )
    for trial in search.trials:
        if trial.state.over:
            known: Any = SimpleNamespace(trial_id=f"earlier-{trial.number}")
            controller: Any = None
            asha.on_trial_add(controller, known)
            for epoch, value in sorted(trial.history.items()):
                asha.on_trial_result(controller, known, {"epoch": epoch, "fitness": value})
    return asha


def _settings_of(search: Search, trial: Trial, share: Share) -> dict[str, Any]:
    """A trial's settings with its folder and its share, as plain values."""
    settings = search.settings_of(trial)
    # What a machine has to spare is the other trials'.
    workers = settings.workers_per_device
    if workers is None:
        workers = share.cpus - 1 if share.gpus else 0
    return dataclasses.replace(
        settings,
        run=(search.runs / trial.name).absolute(),
        # Ray shows a process the GPUs that it may use, and no others.
        devices="0" if share.gpus else "cpu",
        threads=share.cpus,
        workers_per_device=workers,
    ).to_json()


def _wait_until_left(search: Search, trials: Sequence[Trial], say: Callable[[str], None]) -> None:
    running = [trial for trial in trials if trial.state is State.BEGUN]
    say(f"interrupted: {len(running)} trial(s) are saved; --resume goes on with the search")
    until_s = time.monotonic() + search.settings.grace_s + _SLACK_S
    for trial in running:
        try:
            with locked(lock_of(search.runs / trial.name), until_s - time.monotonic()):
                pass
        except TimeoutError:
            say(f"trial {trial.number} has not left in time: it goes on from its newest checkpoint")


def _reason(trial: Any) -> str:
    error = trial.get_error()
    if isinstance(error, RayActorError):
        return "its process was ended from outside, by the system for lack of memory for example"
    return _last_line(error) if error else "its process could not be started"


def _last_line(error: Exception) -> str:
    """Of a traceback that an error has for its text: what was raised."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tune's own words are left out: what it says, the search says."""
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name in _ENVIRONMENT:
            os.environ.pop(name)
            if name in before:
                os.environ[name] = before[name]


@contextlib.contextmanager
def _scratch(search: Search) -> Iterator[None]:
    """Ray Tune writes a record of its own, which is not gone on from."""
    folder = search.folder / _RAYS
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
