"""What runs in a worker of Ray: one trial, which is one training."""

from __future__ import annotations

import csv
import dataclasses
import signal
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.durable import locked
from builder.errors import BuilderError
from builder.signals import Interrupted
from builder.training_run import FITNESS
from trainer.interruption import Interruption
from trainer.run_folder import lock_of, stored_settings
from trainer.settings import TrainSettings, settings_from_json

LEAVE = ".leave"
"""A file among the trials' folders: who sees it saves and leaves. A signal would not reach other machines."""
_LOOK_S = 0.1
"""How often a trial that waits for the search looks whether it is to leave."""
_FORMER_GONE_S = 60.0
"""A search that was killed may leave a trial behind for a moment, which writes to the same folder."""


def run_trial(config: Mapping[str, int], requests: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Train the trial ``config["number"]``, and tell Ray Tune its epochs; how it ended.

    What its folder holds already is told at once, and is not trained again.
    """
    settings = settings_from_json(requests[config["number"]])
    folder = settings.run
    leave, log = folder.with_name(LEAVE), folder.with_suffix(".log")
    try:
        with locked(lock_of(folder), _FORMER_GONE_S), log.open("a", encoding="utf-8", buffering=1) as lines:
            if leave.exists():
                return {"ended": "cut"}
            interruption = Interruption(settings.grace_s)
            told = _Told(interruption)
            with interruption.asked_by(lambda: signal.SIGTERM if leave.exists() else 0):
                for row in _rows(folder / "results.csv"):
                    told.tell(row)
                return _train(settings, interruption, told, lines)
    except TimeoutError:
        raise  # another has the folder still: the trial has not failed, and is tried again
    except OSError as e:
        return {"ended": "failed", "reason": f"{e.filename or folder}: {e.strerror or e}"}


class _Told:
    """What Ray Tune knows of the trial."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption
        self._epoch = 0

    def tell(self, row: Mapping[str, Any]) -> None:
        """Tell a new epoch's figure; returns when the trial may go on or is to leave, raises where it is stopped."""
        epoch, fitness = int(float(row["epoch"])), row.get(FITNESS)
        if epoch > self._epoch and fitness not in (None, ""):
            self._epoch = epoch
            self._report({"epoch": epoch, "fitness": float(fitness or 0.0)})

    def _report(self, figures: dict[str, Any]) -> None:
        """Wait in a thread: a search that is interrupted hears nothing more, and the trial has to leave."""
        from ray import tune

        ended: list[BaseException] = []

        def report() -> None:
            try:
                tune.report(figures)
            except BaseException as e:
                # Of early stopping's it is a SystemExit.
                ended.append(e)

        reporting = threading.Thread(target=report, name="report", daemon=True)
        reporting.start()
        while reporting.is_alive() and not self._interruption.number:
            reporting.join(_LOOK_S)
        for each in ended:
            raise each


def _train(settings: TrainSettings, interruption: Interruption, told: _Told, lines: Any) -> dict[str, Any]:
    from trainer.run import train

    try:
        if settings.run.exists() and any(settings.run.iterdir()):
            begun = stored_settings(settings.run)
            # The teacher's file is compared with the one that the trial has begun with.
            teacher = begun.teacher_sha256 if begun else None
            settings = dataclasses.replace(settings, resume=True, teacher_sha256=teacher)
        train(settings, say=lambda line: print(line, file=lines), observers=(told.tell,), interruption=interruption)
    except Interrupted:
        return {"ended": "cut"}
    except BuilderError as e:
        reason = str(e)
    except Exception as e:
        # Of a library, or a mistake of ours: the other trials go on.
        traceback.print_exc(file=lines)
        reason = f"{type(e).__name__}: {(str(e).strip() or 'no message').splitlines()[0][:300]}"
    else:
        return {"ended": "done"}
    print(f"error: {reason}", file=lines)
    return {"ended": "failed", "reason": reason}


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []
