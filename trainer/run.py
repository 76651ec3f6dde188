"""One training from its settings to run.json, in this process; every process of a training runs this."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.console import show_progress
from builder.durable import replace_file
from builder.errors import BuilderError, SpecError
from trainer.checkpoints.file import CheckpointMeta, Found, newest_valid, read_checkpoint
from trainer.checkpoints.opening import bring_back, copy_results, open_stores
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.writer import CheckpointWriter
from trainer.data import TrainData, read_training_data
from trainer.distribution import Group, Process, is_of_exchange, joined, this_process
from trainer.errors import CheckpointError, PeerLostError
from trainer.interruption import Interruption
from trainer.libraries import quiet_environment, quiet_ultralytics
from trainer.results import Results
from trainer.run_folder import CHECKPOINTS, SETTINGS, nothing_left_behind
from trainer.run_record import versions
from trainer.settings import TrainSettings
from trainer.teacher import with_known_teacher

if TYPE_CHECKING:
    from trainer.loop import Observer, Show, TrainingLoop

_STORES_AT_THE_END_S = 600.0
"""What the last copies may take once the training has ended."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A training that has come to its end."""

    run: Path
    rows: tuple[Mapping[str, float], ...]
    """The figures of each epoch, as in results.csv."""

    @property
    def best(self) -> Path:
        """The weights of the best validated epoch."""
        return self.run / "weights" / "best.pt"


def train(
    settings: TrainSettings,
    *,
    say: Callable[[str], None],
    show: Show = show_progress,
    observers: Sequence[Observer] = (),
    process: Process | None = None,
    interruption: Interruption | None = None,
) -> Finished:
    """Train, or go on where the newest checkpoint that verifies is.

    ``process`` is which one of the training this is, by default what torchrun's environment says. A program whose
    signals are its own asks ``interruption`` to have the training saved and left.

    Raises:
        BuilderError: the request, the data, the weights or a checkpoint is wrong, or the training cannot go on.
        Interrupted: a signal came, and the state is saved.
    """
    quiet_environment()
    process = process or this_process()
    with interruption or Interruption(settings.grace_s) as listening:
        settings = with_known_teacher(settings)
        with joined(settings.devices, process) as group:
            spoken = say if process.is_main else _say_nothing
            return _Run(settings, group, listening, observers, say=spoken, show=show).train()


class _Run:
    """The parts of one training, put together."""

    def __init__(
        self,
        settings: TrainSettings,
        group: Group,
        interruption: Interruption,
        observers: Sequence[Observer],
        *,
        say: Callable[[str], None],
        show: Show,
    ) -> None:
        self._settings, self._group, self._say, self._show = settings, group, say, show
        self._interruption, self._observers = interruption, observers
        self._folder = settings.run
        self._writer = CheckpointWriter(
            self._folder / CHECKPOINTS,
            Retention(last=settings.keep_last, every=settings.keep_every),
            say=lambda line: self._say(f"warning: {line}"),
        )
        self._model_hash = ""
        self._started: Mapping[str, str] = {}
        self._data: TrainData
        self._results: Results

    def train(self) -> Finished:
        """From the settings to run.json."""
        try:
            return self._train()
        except RuntimeError as e:
            if str(e).startswith("DataLoader worker"):
                # On a main thread torch raises it at whatever that is at. Started anew, the process may live.
                raise PeerLostError(
                    f"a process that loads data has died: {str(e).strip().rstrip('.')}. --resume goes on from the "
                    "newest checkpoint."
                ) from e
            if self._group.process.world == 1 or not is_of_exchange(e):
                raise
            raise PeerLostError(
                f"process {self._group.process.rank}: another process of the training is gone "
                f"({str(e).splitlines()[0][:120]}); --resume goes on from the newest checkpoint, --max-restarts does "
                "so by itself."
            ) from e

    def _train(self) -> Finished:
        with nothing_left_behind(self._folder) if self._group.process.is_main else contextlib.nullcontext():
            self._data = self._on_main(self._read_data)
            checkpoints = self._folder / CHECKPOINTS
            self._results = Results(self._settings, self._data, checkpoints=checkpoints, say=self._say)
            found = self._on_main(self._find_checkpoint)
            self._on_main(lambda: self._writer.copy_to(open_stores(self._settings, found is not None, self._say)))
            training = self._prepared(found)
            if found is not None:
                self._go_on(training, found)
            parts = self._on_main(self._begin_part)
        wait_s = self._settings.grace_s
        try:
            training.run()
            wait_s = _STORES_AT_THE_END_S
        finally:
            self._writer.close(wait_s)
        if self._group.process.is_main:
            self._finish(training, parts)
        return Finished(run=self._folder, rows=tuple(training.rows))

    def _read_data(self) -> TrainData:
        data = read_training_data(self._settings.data)
        if self._settings.batch > len(data.train):
            raise SpecError(
                f"--batch {self._settings.batch}: the data have {len(data.train)} training images; expected as many "
                "or fewer."
            )
        world = self._group.process.world
        if world > min(self._settings.batch, len(data.val)):
            raise SpecError(
                f"{world} processes need a --batch of {world} or more and as many validation images; got --batch "
                f"{self._settings.batch} and {len(data.val)} images."
            )
        return data

    def _on_main(self, work: Callable[[], Any]) -> Any:
        """Do it once, on the main process; every process gets the answer, or its error."""
        answer: tuple[Any, BuilderError | None] = (None, None)
        if self._group.process.is_main:
            try:
                answer = (work(), None)
            except BuilderError as e:
                answer = (None, e)
        value, error = self._group.from_main(answer)
        if error is not None:
            raise error
        return value

    def _find_checkpoint(self) -> Found | None:
        folder = self._folder / CHECKPOINTS
        resume = self._settings.resume or self._group.process.restarts > 0
        if not resume:
            return None
        found = self._newest(folder)
        if found is None:
            self._say(f"{folder} holds no checkpoint: the run begins at its first step")
            return None
        for path, reason in found.passed_over:
            self._say(f"passed over {path.name}: {reason}")
        if found.meta.data_hash != self._data.hash:
            raise CheckpointError(
                f"the data of {self._settings.data} are not those that {found.path} was trained on (names, labels or "
                f"images differ). Give the same data, or begin another run from --weights of this one."
            )
        return found

    def _newest(self, folder: Path) -> Found | None:
        if not self._group.process.elsewhere:
            return newest_valid(folder) or bring_back(self._settings, folder, self._say)
        try:
            found = bring_back(self._settings, folder, self._say)
        except CheckpointError as e:
            self._say(f"warning: {e}")
            found = None
        return found or newest_valid(folder)

    def _prepared(self, found: Found | None) -> TrainingLoop:
        quiet_ultralytics()
        import torch

        from trainer.detection import scale_of_rate
        from trainer.freezing import layout_of, stages_of
        from trainer.loop import TrainingLoop
        from trainer.seeded_dataset import SETUP_STREAM, seed_all
        from trainer.snapshot import model_hash
        from trainer.starting_weights import starting_weights

        settings = self._settings
        if settings.precision == "fp16" and self._group.device.type == "cpu":
            raise SpecError("--precision fp16 trains on GPUs; on a CPU use fp32 or bf16.")
        scale_of_rate(settings)
        seed_all(SETUP_STREAM, settings.seed)
        start = starting_weights(
            weights=settings.weights,
            model=settings.model,
            names=self._data.names,
            allow_partial=settings.allow_partial,
        )
        for line in start.report:
            self._say(line)
        self._started = start.origin
        self._model_hash = model_hash(start.module)
        if found is not None and found.meta.model_hash != self._model_hash:
            raise CheckpointError(
                f"{found.path} is not of the model {start.origin['model']} and these data: tensors or class names "
                "differ. Give the model and data that the run was begun with, or begin another run."
            )
        stages = stages_of(settings.freeze, layout_of(start.module.yaml), settings.epochs)
        training = TrainingLoop(
            settings,
            self._data,
            start.module,
            self._group,
            stages=stages,
            interruption=self._interruption,
            save=self._save,
            save_best=self._results.write_best,
            say=self._say,
            show=self._show,
            observers=self._observers,
        )
        # Ultralytics leaves a core to workers that it does not start on a CPU.
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(settings.threads or max(cores // self._group.process.local_world, 1))
        training.prepare()
        return training

    def _go_on(self, training: TrainingLoop, found: Found) -> None:
        from trainer.snapshot import differences, restore

        state, meta = read_checkpoint(found.path)
        restore(training, state)
        done = training.stop or training.position.epoch >= training.epochs
        where = "the training is done" if done else f"epoch {training.position.epoch + 1} of {training.epochs}"
        self._say(f"resumed from {found.path.name}: {meta.step} steps done, {where}")
        for line in differences(training, {**state, "versions": meta.versions}, versions()):
            self._say(f"changed: {line}")

    def _begin_part(self) -> int:
        """Write down how the run was begun; the number of this part of it."""
        path = self._folder / SETTINGS
        content = json.loads(path.read_bytes()) if path.exists() and self._settings.resume else {}
        parts = int(content.get("parts", 0)) + 1
        begun = content or self._settings.to_json()
        replace_file(path, (json.dumps({**begun, "resume": False, "parts": parts}, indent=1) + "\n").encode())
        return parts

    def _save(self, training: TrainingLoop, random_states: list[dict[str, Any]]) -> None:
        from trainer.snapshot import take

        state = take(training, random_states)
        meta = CheckpointMeta(
            run=self._folder.name,
            epoch=training.position.epoch,
            step=training.position.epoch * training.order.steps_per_epoch + training.position.step,
            fitness=None if training.position.step or training.fitness is None else float(training.fitness),
            data_hash=self._data.hash,
            model_hash=self._model_hash,
            versions=versions(),
            arguments=self._settings.to_json(),
        )
        self._writer.submit(state, meta)

    def _finish(self, training: TrainingLoop, parts: int) -> None:
        if self._writer.failures:
            self._tell_of_failures(training)
        path = self._results.finish(training, start=self._started, parts=parts)
        if self._settings.stores:
            copy_results(self._settings, self._say)
        self._say(f"{path}\nbuild it: python -m builder build --weights {self._results.best}")

    def _tell_of_failures(self, training: TrainingLoop) -> None:
        """What checkpoints that could not be written mean for a run that is done."""
        newest = newest_valid(self._folder / CHECKPOINTS)
        if newest is None:
            raise CheckpointError(f"the training is done and nothing could be saved: {self._writer.failures[-1]}")
        if newest.meta.epoch < training.position.epoch:
            self._say(
                f"warning: the newest checkpoint is of epoch {newest.meta.epoch}, the training came to epoch "
                f"{training.position.epoch}: --resume would train the rest again, and write other weights."
            )


def _say_nothing(line: str) -> None:
    """Only the main process speaks."""
