"""What is known of a search, in search.json: whoever ends it and however, it goes on from there.

    {"schema": "search/1", "space": {...}, "seed": 0, "metric": "mAP50-95", "data_hash": "…", "settings": {...},
     "early_stopping": {"first": 1, "reduction": 3} | null,
     "trials": [{"trial": 1, "values": {...}, "state": "done", "epochs": 9, "best": 0.71, "best_epoch": 8,
                 "seconds": 61.2, "reason": null, "history": [[1, 0.1], ...]}],
     "best": {"trial": 1, "mAP50-95": 0.71, "weights": "trials/0001/weights/best.pt", "command": "python -m …"} | null}

It is the search's own record and not Ray's: Ray saves a search without its scheduler, so that early stopping would
forget all that it has compared, and every few seconds only, so that a trial that ended after would be trained again.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from builder.durable import replace_file
from builder.errors import SpecError
from trainer.search.space import Space, Value, space_from_json, with_values
from trainer.search.train_arguments import train_arguments
from trainer.settings import TrainSettings, settings_from_json

SCHEMA = "search/1"
FILE = "search.json"


class State(StrEnum):
    """How far a trial is."""

    WAITING = "waiting"
    BEGUN = "begun"
    """It runs, or was cut and goes on with the search."""
    DONE = "done"
    STOPPED = "stopped early"
    FAILED = "failed"
    DIED = "died"
    """Its process was ended from outside; it is tried again when the search goes on."""

    @property
    def over(self) -> bool:
        """Whether nothing more is to be done."""
        return self in (State.DONE, State.STOPPED, State.FAILED)


@dataclass(kw_only=True, slots=True)
class Trial:
    """One training of a search."""

    number: int
    """From 1."""
    values: Mapping[str, Value]
    state: State = State.WAITING
    history: dict[int, float] = field(default_factory=dict)
    """mAP50-95 by epoch."""
    seconds: float = 0.0
    reason: str | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.number:04d}"

    @property
    def epochs(self) -> int:
        """Epochs that it was trained."""
        return max(self.history, default=0)

    @property
    def best(self) -> tuple[int, float] | None:
        """The best epoch and its mAP50-95."""
        return max(self.history.items(), key=lambda each: (each[1], -each[0]), default=None)

    def to_json(self) -> dict[str, Any]:
        """As in search.json."""
        epoch, best = self.best or (None, None)
        return {
            "trial": self.number, "values": dict(self.values), "state": self.state.value, "epochs": self.epochs,
            "best": best, "best_epoch": epoch, "seconds": round(self.seconds, 1), "reason": self.reason,
            "history": sorted(self.history.items()),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class EarlyStopping:
    """ASHA's rules (Li et al. 2018, https://arxiv.org/abs/1810.05934)."""

    first: int
    """Epochs after which trials are compared for the first time; then after that times ``reduction``, and so on."""
    reduction: int
    """One of so many goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a trial has of the machines."""

    at_once: int
    cpus: int
    gpus: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """What there is for all trials."""

    cpus: int
    cpus_of_one: int
    """Of the largest machine."""
    gpus: float


@dataclass(kw_only=True, slots=True)
class Search:
    """A search: what is searched, how, and every trial of it."""

    folder: Path
    space: Space
    settings: TrainSettings
    """What all trials have in common."""
    early_stopping: EarlyStopping | None
    data_hash: str
    trials: list[Trial]

    def plan(self, count: int) -> None:
        """Add trials up to ``count``; their values depend on the seed and their numbers alone."""
        for number in range(len(self.trials) + 1, count + 1):
            self.trials.append(Trial(number=number, values=self.space.draw(self.settings.seed, number)))

    @property
    def runs(self) -> Path:
        """The folder of the trials' folders."""
        return self.folder / "trials"

    def settings_of(self, trial: Trial) -> TrainSettings:
        """The whole of a trial's settings but its folder.

        Raises:
            SpecError: they do not go together.
        """
        try:
            return with_values(self.settings, trial.values)
        except SpecError as e:
            raise SpecError(f"trial {trial.number} ({shown(trial.values)}): {e}") from e

    @property
    def best(self) -> Trial | None:
        """The trial with the highest mAP50-95 of those that ended as they should."""
        ended = [trial for trial in self.trials if trial.state in (State.DONE, State.STOPPED) and trial.best]
        return max(ended, key=lambda trial: (trial.best[1] if trial.best else 0.0, -trial.number), default=None)

    def command(self, trial: Trial) -> list[str]:
        """The arguments that train a trial whole, in a folder of its own."""
        return ["train", "--run", str(self.folder / "best"), *train_arguments(self.settings_of(trial))]

    def write(self) -> None:
        """Write search.json whole or not at all."""
        replace_file(self.folder / FILE, (json.dumps(self._to_json(), indent=1) + "\n").encode())

    def write_table(self) -> None:
        """Write trials.csv."""
        names = [each.name for each in self.space.dimensions]
        columns = ["trial", *names, "epochs", "best", "best_epoch", "state", "seconds", "reason"]
        text = io.StringIO()
        table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(trial.to_json() | dict(trial.values) for trial in self.trials)
        replace_file(self.folder / "trials.csv", text.getvalue().encode())

    def _to_json(self) -> dict[str, Any]:
        import shlex

        rules, best = self.early_stopping, self.best
        return {
            "schema": SCHEMA,
            "space": self.space.to_json(),
            "seed": self.settings.seed,
            "metric": "mAP50-95",
            "data_hash": self.data_hash,
            "settings": self.settings.to_json(),
            "early_stopping": {"first": rules.first, "reduction": rules.reduction} if rules else None,
            "trials": [trial.to_json() for trial in self.trials],
            "best": best and {
                "trial": best.number,
                "mAP50-95": best.best and best.best[1],
                "weights": f"{self.runs.name}/{best.name}/weights/best.pt",
                "command": shlex.join(["python", "-m", "trainer", *self.command(best)]),
            },
        }  # fmt: skip


def read_search(folder: Path) -> Search:
    """The search that was begun in a folder.

    Raises:
        SpecError: there is none, or its record is damaged or of another release.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != SCHEMA:
            raise SpecError(f"{path} is a {content['schema']!r}, expected {SCHEMA!r}: another release wrote it.")
        rules = content["early_stopping"]
        return Search(
            folder=folder,
            space=space_from_json(content["space"]),
            settings=settings_from_json(content["settings"]),
            early_stopping=EarlyStopping(first=rules["first"], reduction=rules["reduction"]) if rules else None,
            data_hash=content["data_hash"],
            trials=[_trial(each) for each in content["trials"]],
        )
    except FileNotFoundError as e:
        raise SpecError(f"{folder} holds no search to go on with; begin one: leave out --resume.") from e
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise SpecError(f"{path} is damaged ({type(e).__name__}: {e}); restore it, or begin another search.") from e


def shown(values: Mapping[str, Value]) -> str:
    """Values in a line."""
    return ", ".join(f"{name} {shown_value(value)}" for name, value in values.items())


def shown_value(value: Value) -> str:
    """A value in four digits; of a path its last part."""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value).rpartition("/")[2]
    return f"{value:.4g}"


def _trial(content: Mapping[str, Any]) -> Trial:
    history: Sequence[tuple[int, float]] = content["history"]
    return Trial(
        number=content["trial"],
        values=content["values"],
        state=State(content["state"]),
        history={int(epoch): float(value) for epoch, value in history},
        seconds=content["seconds"],
        reason=content["reason"],
    )
