"""Everything that a training is at one moment, as plain values and tensors in full precision, and the way back.

It is taken right after an optimizer step, when there are no gradients to keep. ``torch.load(weights_only=True)`` reads
it. The order of the samples and their augmentation are counted from the position (``trainer.order``); the random states
are kept for whatever else may draw from them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ultralytics.utils.torch_utils import unwrap_model

from trainer.errors import CheckpointError
from trainer.order import Position

if TYPE_CHECKING:
    from trainer.loop import TrainingLoop

State = dict[str, Any]


def take(training: TrainingLoop, random_states: list[State]) -> State:
    """A copy of the whole state on the CPU; ``random_states`` are those of each process, by rank."""
    criterion = unwrap_model(training.model).criterion
    scheduler = {k: v for k, v in training.scheduler.state_dict().items() if k != "lr_lambdas"}
    return {
        "position": list(training.position),
        "model": copied(unwrap_model(training.model).state_dict()),
        "ema": copied(training.ema.ema.state_dict()),
        "ema_updates": training.ema.updates,
        "optimizer": copied(training.optimizer.state_dict()),
        "scaler": copied(training.scaler.state_dict()),
        "scheduler": copied(scheduler),
        "last_optimizer_step": training.last_optimizer_step,
        "accumulate": training.accumulate,
        "stopper": dict(vars(training.stopper)),
        "stop": bool(training.stop),
        "best_fitness": training.best_fitness,
        "fitness": training.fitness,
        "criterion_updates": getattr(criterion, "updates", None),
        "running_loss": dict(training.running_loss),
        "rows": [dict(row) for row in training.rows],
        "seconds": training.seconds,
        "random": random_states,
        "world": len(random_states),
        "threads": torch.get_num_threads(),
        "device": training.device.type,
    }


def restore(training: TrainingLoop, state: Mapping[str, Any]) -> None:
    """Bring a training that has just been set up to where the snapshot was taken.

    Raises:
        CheckpointError: the snapshot is of another network or optimizer.
    """
    model: Any = unwrap_model(training.model)
    try:
        model.load_state_dict(state["model"])
        training.ema.ema.load_state_dict(state["ema"])
        training.optimizer.load_state_dict(state["optimizer"])
        training.scaler.load_state_dict(state["scaler"])
        lambdas = [None] * len(training.optimizer.param_groups)  # its functions of the epoch are code, not state
        training.scheduler.load_state_dict({**state["scheduler"], "lr_lambdas": lambdas})
    except (KeyError, RuntimeError, ValueError) as e:
        raise CheckpointError(f"the checkpoint is not of this network: {str(e).splitlines()[0][:160]}.") from e
    training.ema.updates = state["ema_updates"]
    training.position = Position(*state["position"])
    training.last_optimizer_step = state["last_optimizer_step"]
    training.accumulate = state["accumulate"]
    patience = training.stopper.patience
    training.stopper.__dict__.update(state["stopper"])
    training.stopper.patience = patience
    training.stop = state["stop"]
    training.best_fitness, training.fitness = state["best_fitness"], state["fitness"]
    training.running_loss = dict(state["running_loss"])
    # What validation reads the names of the losses from, before any step of this process.
    training.loss_items = {name: torch.zeros((), device=training.device) for name in training.running_loss}
    training.loss_names = tuple(training.running_loss)
    training.loss = torch.zeros((), device=training.device)
    training.rows = [dict(row) for row in state["rows"]]
    training.seconds = state["seconds"]
    if state["criterion_updates"] is not None:
        criterion = model.criterion
        criterion.updates = state["criterion_updates"] - 1
        criterion.update()
    if training.group.process.rank < len(state["random"]):
        set_random_state(state["random"][training.group.process.rank])


def differences(training: TrainingLoop, state: Mapping[str, Any], versions: Mapping[str, str]) -> list[str]:
    """What is otherwise than when the snapshot was taken, and what follows, a line each."""
    lines = []
    world, device = training.group.process.world, training.device.type
    if state["world"] != world:
        lines.append(
            f"{world} process(es), were {state['world']}: the samples of each step and the learning rates stay, sums "
            "are taken in another order (the last bits of the weights differ)"
        )
    elif state["threads"] != torch.get_num_threads() and device == "cpu":
        lines.append(
            f"{torch.get_num_threads()} threads, were {state['threads']}: sums are taken in another order (the last "
            "bits of the weights differ; --threads restores it)"
        )
    if state["device"] != device:
        lines.append(f"on {device}, was on {state['device']}: the last bits of the weights differ")
    for name, version in versions.items():
        before = state["versions"].get(name)
        if before != version:
            lines.append(f"{name} {version}, was {before}: the weights may differ")
    return lines


def random_state() -> State:
    """This process's generators."""
    name, keys, place, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(place), int(has_gauss), gauss],
        "torch": torch.random.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """The way back from ``random_state``."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), place, has_gauss, cached))
    torch.random.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])


def copied(value: Any) -> Any:
    """The same tree with tensors of its own on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(each) for each in value)
    return value


def model_hash(model: Any) -> str:
    """A hash of the network's tensors by name and shape, and of its class names."""
    module: Any = unwrap_model(model)
    shapes = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    text = json.dumps([shapes, list(module.names.values())], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
