"""The loop of a training: steps from a position to the end, each of which may be the last.

Ultralytics' own loop cannot begin inside an epoch. This one takes the learning rates, momentum and gathered gradients
of a step from its number alone, and ends every epoch with an optimizer step, so that no gradient has to be kept.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ultralytics.utils.torch_utils import unset_deterministic, unwrap_model

from builder.console import show_progress
from builder.signals import Interrupted
from builder.training_run import FITNESS
from trainer import snapshot
from trainer.data_path import DataPath, exchange_seconds, spare_cores
from trainer.detection import DetectionSetup
from trainer.errors import TrainingError
from trainer.freezing import Stage, apply_stage, stage_at, still_statistics
from trainer.interruption import Interruption
from trainer.loading import loading
from trainer.order import Position, RemainingBatches
from trainer.progress import Progress
from trainer.seeded_dataset import STEP_STREAM, seed_all
from trainer.sync_batch_norm import WAITED

Save = Callable[["TrainingLoop", list[snapshot.State]], None]
Observer = Callable[[Mapping[str, float]], None]
"""Told the figures of each epoch on the main process; what it raises ends the training."""
Show = Callable[[str, int, int], None]
"""Shows on the main process what is being done, how much of it is done, and of how much."""


class TrainingLoop(DetectionSetup):
    """A training that knows where it is."""

    def __init__(
        self,
        *parts: Any,
        stages: Sequence[Stage],
        interruption: Interruption,
        save: Save,
        save_best: Callable[[TrainingLoop], object],
        say: Callable[[str], None],
        show: Show = show_progress,
        observers: Sequence[Observer] = (),
    ) -> None:
        """``parts`` are DetectionSetup's; ``save`` and ``save_best`` are called on the main process."""
        super().__init__(*parts)
        self.stages, self.interruption, self.observers = stages, interruption, observers
        self._save_state, self._save_best, self._say, self._show = save, save_best, say, show
        self.position = Position(0, 0)
        self.last_optimizer_step = -1
        self.running_loss: dict[str, float] = {}
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0
        """Of training, earlier parts of the run included."""
        self.path = DataPath()
        self._workers = self.settings.workers_per_device
        self._batches: Iterator[Any] | None = None
        self._saved_step, self._saved_s = 0, time.monotonic()
        self._stage: Stage | None = None
        self._progress = Progress(self.settings.run, say) if self.group.process.is_main else None

    def prepare(self) -> None:
        """Set all up for the first step."""
        self._setup_train()
        if self.teacher:
            self._say(self.teacher.report)
        self.callbacks = {"on_val_start": [self._skip_validation], "on_val_batch_end": [self._leave_validation]}
        self.validator.callbacks = self.callbacks

    def run(self) -> None:
        """Train from the position to the end.

        Raises:
            Interrupted: a signal came; the state is saved.
            TrainingError: the loss is no number, the memory is too small, or the data cannot be read.
        """
        if self._progress:
            self._progress.go_on_from(self._steps_done(), self.rows)
        bytes_of_gradients = sum(4 * p.numel() for p in self.model.parameters() if p.requires_grad)
        self.path.communication_s = exchange_seconds(self.group, bytes_of_gradients)
        self.optimizer.zero_grad()
        self._saved_step, self._saved_s = self._steps_done(), time.monotonic()
        self.interruption.begin(lambda number: self.group.most([number])[0])
        try:
            while self.position.epoch < self.epochs and not self.stop:
                self._epoch()
        except torch.OutOfMemoryError as e:
            raise TrainingError(
                f"the memory of {self.device} is too small for --batch {self.settings.batch} at --imgsz "
                f"{self.settings.imgsz}: begin again with a smaller batch (gradients are gathered up to nbs images)."
            ) from e
        finally:
            unset_deterministic()
            self._batches = None
            if self._progress:
                self._progress.close(self.rows)

    def _epoch(self) -> None:
        """The rest of an epoch, from the position on."""
        epoch = self.position.epoch
        self.epoch = epoch
        self._begin_epoch(epoch)
        steps = self.order.steps_per_epoch
        for step in range(self.position.step, steps):
            began_s = time.perf_counter()
            stepped = self._step(epoch, step)
            self.seconds += time.perf_counter() - began_s
            if self._progress:
                losses = " ".join(f"{name.removesuffix('_loss')} {v:.3f}" for name, v in self.running_loss.items())
                self._show(f"epoch {epoch + 1}/{self.epochs}  {losses}  step", step + 1, steps)
            self._leave_or_save(stepped)
        self._close_epoch(epoch)

    def _begin_epoch(self, epoch: int) -> None:
        stage = stage_at(self.stages, epoch)
        if stage is not self._stage:
            told = apply_stage(unwrap_model(self.model), stage)
            if len(self.stages) > 1 or stage.layers:
                self._say(told)
            self._stage = stage
            self.wrap()
        self.model.train()
        still_statistics(unwrap_model(self.model), stage)
        if self.position.step == 0:
            self.running_loss = {}
            self.scheduler.last_epoch, self.scheduler._step_count = epoch - 1, epoch + 1
            # It warns that the optimizer has not stepped yet; it only sets the rates of the epoch.
            self.optimizer._opt_called = True
            self.scheduler.step()
        if self._batches is None:
            self._start_loading(self._workers or 0)

    def _step(self, epoch: int, step: int) -> bool:
        """One global batch; whether the optimizer has stepped."""
        number = epoch * self.order.steps_per_epoch + step
        batch = self._next_batch(number)
        self._warm_up(number, epoch)
        last = step == self.order.steps_per_epoch - 1
        due = last or number - self.last_optimizer_step >= self.accumulate
        seed_all(STEP_STREAM, self.settings.seed, epoch, step)
        with self._exchange_if(due):
            with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp):
                loss, self.loss_items = self.model(self.preprocess_batch(batch))
                self.loss = loss.sum()
            self.scaler.scale(self.loss).backward()
        if due:
            self.optimizer_step()  # type: ignore[no-untyped-call]
            self.last_optimizer_step = number
        self._record(number, step)
        self.position = Position(epoch, step + 1)
        self.path.step_done()
        self._choose_workers()
        return due

    def _next_batch(self, number: int) -> Any:
        assert self._batches is not None, "an epoch begins with loading"
        try:
            return self.path.next_batch(self._batches)
        except (OSError, RuntimeError, ValueError) as e:
            reason = str(e).strip().splitlines()[-1]
            raise TrainingError(f"the data of step {number + 1} cannot be loaded: {reason}") from e

    def _warm_up(self, number: int, epoch: int) -> None:
        """Rates, momentum and gathered steps of the first steps, as Ultralytics has them."""
        until = self._get_warmup_iterations(self.order.steps_per_epoch)  # type: ignore[no-untyped-call]
        if not until or number > until:
            self.accumulate = self.nominal_accumulate
            return
        span = (0, until)
        self.accumulate = max(1, round(float(np.interp(number, span, (1, self.nominal_accumulate)))))
        for group in self.optimizer.param_groups:
            begin = self.args.warmup_bias_lr if group.get("param_group") == "bias" else 0.0
            group["lr"] = float(np.interp(number, span, (begin, group["initial_lr"] * self.lf(epoch))))
            if "momentum" in group:
                group["momentum"] = float(np.interp(number, span, (self.args.warmup_momentum, self.args.momentum)))

    def _exchange_if(self, due: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients travel with the step that needs them, not with those that gather."""
        if due or self.world_size == 1:
            return contextlib.nullcontext()
        manager: contextlib.AbstractContextManager[Any] = self.model.no_sync()
        return manager

    def _record(self, number: int, step: int) -> None:
        losses = {name: float(value) for name, value in self.loss_items.items()}
        if not all(math.isfinite(value) for value in losses.values()):
            shown = ", ".join(f"{name} {value}" for name, value in losses.items())
            raise TrainingError(
                f"the loss of step {number + 1} is no finite number ({shown}). Nothing of it was saved: the newest "
                "checkpoint is from before. Begin again with a lower --lr0, or with --precision fp32."
            )
        if not self.loss_names:
            self.loss_names = tuple(losses)
        before = self.running_loss or losses
        self.running_loss = {name: (before[name] * step + value) / (step + 1) for name, value in losses.items()}
        if self._progress:
            self._progress.step(number + 1, losses, float(self.optimizer.param_groups[0]["lr"]))

    def _leave_or_save(self, stepped: bool) -> None:
        """Save where it is due and there are no gradients to keep; leave where a signal has asked for it."""
        minutes = self.settings.save_minutes
        late = minutes is not None and time.monotonic() - self._saved_s >= 60 * minutes
        number, late_somewhere = self.group.most([self.interruption.number, int(late)])
        if not stepped:
            return
        since = self._steps_done() - self._saved_step
        if number or late_somewhere or (self.settings.save_steps and since >= self.settings.save_steps):
            self._save()
        if number:
            raise self._left(number)

    def _save(self) -> None:
        states = self.group.all(snapshot.random_state())
        if self.group.process.is_main:
            self._save_state(self, states)
        self._saved_step, self._saved_s = self._steps_done(), time.monotonic()

    def _left(self, number: int) -> Interrupted:
        name = signal.Signals(number).name
        self._say(f"{name}: left before step {self._steps_done() + 1}, epoch {self.position.epoch + 1}")
        return Interrupted(number)

    def _leave_validation(self, validator: Any) -> None:
        """Leave a validation that a signal has come into: it changes nothing and is done again.

        Each process asks the others once, at its signal or after its last batch: whoever went on alone would wait for
        the findings of one that has left. So the one that a signal came to waits for those that know of none.
        """
        if self.interruption.number or validator.batch_i + 1 == len(validator.dataloader):
            self._leave_together()

    def _skip_validation(self, validator: Any) -> None:
        """Few images may leave a process without any batch: it, too, asks once."""
        if not len(validator.dataloader):
            self._leave_together()

    def _leave_together(self) -> None:
        if number := self.group.most([self.interruption.number])[0]:
            self._save()
            raise self._left(number)

    def _close_epoch(self, epoch: int) -> None:
        """Validate, write down, decide, and save."""
        final = epoch + 1 >= self.epochs
        self.ema.update_attr(self.model, include=["yaml", "nc", "args", "names", "stride", "class_weights"])
        self.fitness = None
        metrics: Mapping[str, float] | None = None
        before = self.best_fitness
        if final or (epoch + 1) % self.settings.validate_every == 0:
            metrics, self.fitness = self.validate()  # type: ignore[no-untyped-call]
        if self.group.process.is_main:
            self._write_down(epoch, metrics or {})
            self.stop = bool(self.stopper(epoch + 1, self.fitness))
            if self.fitness is not None and (before is None or self.fitness > before):
                self._save_best(self)
        criterion: Any = unwrap_model(self.model).criterion
        if hasattr(criterion, "update"):
            criterion.update()
        self.stop = self.group.from_main(self.stop)
        self.position = Position(epoch + 1, 0)
        self._save()
        if (number := self.group.most([self.interruption.number])[0]) and not (final or self.stop):
            raise self._left(number)

    def _write_down(self, epoch: int, metrics: Mapping[str, float]) -> None:
        rates = {f"lr/pg{i}": float(group["lr"]) for i, group in enumerate(self.optimizer.param_groups)}
        losses = {f"train/{name}": round(value, 5) for name, value in self.running_loss.items()}
        row = {"epoch": float(epoch + 1), **losses, **{k: float(v) for k, v in metrics.items()}, **rates}
        self.rows.append(row)
        accuracy = metrics.get(FITNESS)
        shown = "  ".join(f"{name.removesuffix('_loss')} {value:.3f}" for name, value in self.running_loss.items())
        self._say(
            f"epoch {epoch + 1}/{self.epochs}  {shown}" + ("" if accuracy is None else f"  mAP50-95 {accuracy:.4f}")
        )
        if shares := self.path.shares(WAITED.taken()):
            self._say(f"  {shares.sentence(self._workers or 0, self.device.type)}")
        if self._progress:
            self._progress.epoch(self.rows)
        for observer in self.observers:
            observer(row)

    def _start_loading(self, workers: int) -> None:
        """Load from the position on: the samples do not depend on who loads them."""
        process = self.group.process
        remaining = RemainingBatches(
            order=self.order, start=self.position, epochs=self.epochs, rank=process.rank, world=process.world
        )
        self._batches = loading(self.train_loader.dataset, remaining, workers, pinned=self.device.type == "cuda")

    def _choose_workers(self) -> None:
        if self._workers is not None:
            return
        spare = spare_cores(self.device.type, torch.get_num_threads(), self.group.process.local_world)
        chosen = self.path.chosen_workers(spare)
        if chosen is None:
            return
        self._workers = chosen
        self._say(f"data is loaded by {chosen or 'no'} worker(s) per process: {spare} core(s) are spare for each")
        if chosen:
            self._start_loading(chosen)

    def _steps_done(self) -> int:
        """Global batches since the run began."""
        return self.position.epoch * self.order.steps_per_epoch + self.position.step
