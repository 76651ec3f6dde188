"""What a training leaves: its weights, best and last, and run.json; the main process writes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoints.file import read_checkpoint, states
from trainer.data import TrainData
from trainer.errors import CheckpointError, TrainingError
from trainer.run_record import write_run_record
from trainer.settings import TrainSettings

if TYPE_CHECKING:
    from trainer.loop import TrainingLoop


class Results:
    """The weights and the record of one run."""

    def __init__(
        self, settings: TrainSettings, data: TrainData, *, checkpoints: Path, say: Callable[[str], None]
    ) -> None:
        """``checkpoints`` is where the best weights come from when they are written again."""
        self._settings, self._data, self._checkpoints, self._say = settings, data, checkpoints, say
        self._folder = settings.run / "weights"

    @property
    def best(self) -> Path:
        """The weights of the best validated epoch."""
        return self._folder / "best.pt"

    def write_best(self, training: TrainingLoop, state: Mapping[str, Any] | None = None) -> bool:
        """Write best.pt of ``state``, by default of the training as it is; whether it could be, told where not."""
        return self._write(training, self.best, state)

    def finish(self, training: TrainingLoop, *, start: Mapping[str, str], parts: int) -> Path:
        """Write what is missing of the weights, and run.json; its path.

        Raises:
            TrainingError: the weights cannot be written.
        """
        last = self._write(training, self._folder / "last.pt")
        if not self.best.exists():
            self._write_best_again(training)
        if not last or not self.best.exists():
            raise TrainingError(
                f"the training is done and its {self._folder} could not be written: make room and --resume."
            )
        return write_run_record(
            self._settings.run,
            settings=self._settings,
            data=self._data.to_json(),
            start=start,
            rows=training.rows,
            steps=len(training.rows) * training.order.steps_per_epoch,
            seconds=training.seconds,
            parts=parts,
        )

    def _write(self, training: TrainingLoop, path: Path, state: Mapping[str, Any] | None = None) -> bool:
        from trainer.weights_file import write_weights

        epochs = len(state["rows"] if state else training.rows)
        try:
            write_weights(
                path,
                state["ema"] if state else training.ema.ema.state_dict(),
                description=training.description(),
                names=training.data["names"],
                arguments={**vars(training.args), "data": self._settings.data.name, "save_dir": None},
                run={"name": self._settings.run.name, "data_hash": self._data.hash, "epoch": epochs},
                half=self._settings.half,
            )
        except OSError as e:
            self._say(f"warning: {path} was not written: {e.strerror or e}.")
            return False
        return True

    def _write_best_again(self, training: TrainingLoop) -> None:
        """From the checkpoint of the best epoch: the run was restored elsewhere, or the disk was full then."""
        for path in states(self._checkpoints):
            with contextlib.suppress(CheckpointError):
                state, meta = read_checkpoint(path)
                if meta.fitness is not None and meta.fitness == training.best_fitness:
                    self.write_best(training, state)
                    return
