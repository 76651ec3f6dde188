"""The network that a training begins with, and what was taken for it from known weights.

A checkpoint is read by the builder's own reader, which runs nothing that the file says, and is checked key by key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import SpecError, WeightsError
from trainer.data import plain_name

if TYPE_CHECKING:
    import torch
    from torch import nn

    from builder.weights import KeyReport


@dataclass(frozen=True, kw_only=True, slots=True)
class StartingWeights:
    """A network for the data's classes, ready to be trained."""

    module: nn.Module
    """Ultralytics' DetectionModel."""
    report: tuple[str, ...]
    """What was taken and what begins anew, a line each."""
    origin: Mapping[str, str]
    """``model``, and where weights were given ``weights`` and ``weights_sha256``."""


def starting_weights(
    *, weights: Path | None, model: str | None, names: Sequence[str], allow_partial: bool
) -> StartingWeights:
    """Build the network for ``names`` and fill it; without weights it is random, by the generators' present state.

    Raises:
        SpecError: neither weights nor a model is given.
        WeightsError: the file is no detector's, or does not fit and ``allow_partial`` is not given.
    """
    if weights is None:
        if model is None:
            raise SpecError("expected what to start from: --weights FILE.pt, or --model yolo11n.yaml for random ones.")
        module = _built(_description(model), names, model)
        count = sum(p.numel() for p in module.parameters())
        line = f"{Path(model).name}: random weights, {count:,} parameters, {len(names)} classes"
        return StartingWeights(module=module, report=(line,), origin={"model": Path(model).name})
    from builder.manifest import record_of
    from builder.weights import find_weights, load_network

    path = find_weights(weights)
    if path.suffix.lower() != ".pt":
        raise WeightsError(
            f"{path}: expected a .pt to start from; an ONNX graph cannot be trained, and a model description goes with "
            "--model."
        )
    source, partly = _source(path, model, load_network)
    description = _description(model) if model else source.module.yaml
    module = _built(description, names, model or str(path))
    report = _transfer(
        module,
        source.module,
        tuple(source.names),
        tuple(names),
        other_network=partly or bool(model),
        allow_partial=allow_partial,
    )
    origin = {
        "model": str(getattr(module, "yaml", {}).get("yaml_file", model or path.name)).rpartition("/")[2],
        "weights": path.name,
        "weights_sha256": record_of(path).sha256,
    }
    return StartingWeights(module=module, report=(f"{path}: {report[0]}", *report[1:]), origin=origin)


def _source(path: Path, model: str | None, load_network: Any) -> tuple[Any, bool]:
    """The weights' own network; built by ``model`` where the file holds a state_dict alone."""
    try:
        return load_network(path), False
    except WeightsError as e:
        if model is None or "state_dict alone" not in str(e):
            raise
        return load_network(path, model_yaml=model, allow_partial=True), True


def _description(model: str) -> Any:
    from builder.model_description import read_yaml

    return read_yaml(model)


def _built(description: Any, names: Sequence[str], origin: str) -> nn.Module:
    from builder.model_description import build_module

    module = build_module(description, classes=len(names), origin=origin)
    module.names = dict(enumerate(names))  # type: ignore[assignment]
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module


def _transfer(
    module: nn.Module,
    source: nn.Module,
    source_names: tuple[str, ...],
    names: tuple[str, ...],
    *,
    other_network: bool,
    allow_partial: bool,
) -> tuple[str, ...]:
    """Copy what fits; the report's lines.

    Raises:
        WeightsError: more than the branch that tells the classes apart does not fit, and that is not allowed.
    """
    from builder.weights import load_state

    keys = load_state(module, source.state_dict())
    total = len(module.state_dict())
    # Its widths follow from the number of classes, all of them.
    branch = tuple(f"model.{len(module.model) - 1}.{each}" for each in ("cv3.", "one2one_cv3."))  # type: ignore[arg-type]
    elsewhere = [key for key in (*keys.missing, *keys.unexpected, *keys.misshaped) if not key.startswith(branch)]
    if (elsewhere or (keys and source_names == names)) and not allow_partial:
        what = "the network of --model" if other_network else "the network"
        raise WeightsError(
            f"the weights do not fit {what} ({total} keys): {keys.describe()}. Give the --model that they were trained "
            "with, or take what fits with --allow-partial."
        )
    taken = total - len(keys.missing) - len(keys.misshaped)
    if not taken:
        raise WeightsError(f"nothing of the weights fits the network: {keys.describe()}.")
    lines = [f"{taken} of {total} tensors taken, {len(names)} classes"]
    if keys:
        lines.append(f"begin anew: {_anew(keys)}")
    if source_names != names:
        lines += _other_classes(module, source, source_names, names)
    return tuple(lines)


def _anew(keys: KeyReport) -> str:
    """The parts of the network that keep their random values: layers, not tensors."""
    layers: dict[str, int] = {}
    for key in (*keys.missing, *(each.partition(" ")[0] for each in keys.misshaped)):
        layer = ".".join(key.split(".")[:3])
        layers[layer] = layers.get(layer, 0) + 1
    shown = [f"{layer} ({count} tensors)" for layer, count in list(layers.items())[:8]]
    return ", ".join(shown) + (f", … {len(layers) - 8} more layers" if len(layers) > 8 else "")


def _other_classes(
    module: nn.Module, source: nn.Module, source_names: tuple[str, ...], names: tuple[str, ...]
) -> list[str]:
    """Move the rows of classes that both have to their new places; the report's lines."""
    import torch

    known = {plain_name(name): row for row, name in enumerate(source_names)}
    rows = [(row, known[plain_name(name)]) for row, name in enumerate(names) if plain_name(name) in known]
    ours, theirs = _class_layers(module), _class_layers(source)
    fits = bool(ours) and len(ours) == len(theirs)
    fits = fits and all(a.weight.shape[1:] == b.weight.shape[1:] for a, b in zip(ours, theirs, strict=False))
    line = f"the weights know {len(source_names)} classes, the data {len(names)}"
    if not fits:
        return [f"{line}: the branch that tells them apart has another width, all {len(names)} begin anew"]
    fresh = [row for row in range(len(names)) if row not in dict(rows)]
    with torch.no_grad():
        for mine, other in zip(ours, theirs, strict=True):
            before: tuple[torch.Tensor, ...] = (other.weight.clone(), other.bias.clone())
            if mine.weight.shape == other.weight.shape and fresh:
                # Same number, other names: what was copied by place is another class's.
                mine.weight[fresh] = before[0].mean(dim=0)
                mine.bias[fresh] = before[1].mean()
            for row, their_row in rows:
                mine.weight[row] = before[0][their_row]
                mine.bias[row] = before[1][their_row]
    if not rows:
        return [f"{line}: no name is in both, all {len(names)} begin anew"]
    taken = ", ".join(names[row] for row, _ in rows[:5]) + (", …" if len(rows) > 5 else "")
    return [f"{line}: {len(rows)} taken by name ({taken}), {len(fresh)} begin anew"]


def _class_layers(module: nn.Module) -> list[Any]:
    """The last convolution of each level's class branch, of each head."""
    head: Any = module.model[-1]  # type: ignore[index]
    branches = [getattr(head, name, None) for name in ("cv3", "one2one_cv3")]
    return [level[-1] for branch in branches if branch is not None for level in branch]
