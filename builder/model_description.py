"""A network from its description, the content of a model yaml: every name is a layer's, every value a literal."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.checkpoint import LAYER_MODULES
from builder.errors import WeightsError

if TYPE_CHECKING:
    from torch import nn

DETECT_HEADS = frozenset({"Detect", "v10Detect"})
_ACTIVATION = re.compile(r"(?:torch\.)?nn\.([A-Za-z0-9]+)\((.*)\)")


def build_module(description: object, *, classes: int | None, origin: str) -> nn.Module:
    """Build Ultralytics' DetectionModel from its description (the content of a model yaml).

    Raises:
        WeightsError: the description is malformed, names what is no layer, or is not a detector.
    """
    checked = _checked_description(description, origin)
    if classes is not None:
        checked["nc"] = classes
    if checked.get("scales") and not checked.get("scale"):
        checked["scale"] = next(iter(checked["scales"]))  # what Ultralytics takes too, with a warning
    from ultralytics.nn.tasks import DetectionModel

    try:
        model: nn.Module = DetectionModel(checked, ch=checked.get("channels", 3), verbose=False)
    except Exception as e:  # whatever Ultralytics' parser stumbles over is the description's fault
        raise WeightsError(f"the model description of {origin} cannot be built: {type(e).__name__}: {e}.") from e
    return model


def read_yaml(name: str) -> object:
    """A model description: a file of the user's, or the name of one that Ultralytics ships (``yolo11n.yaml``)."""
    from ultralytics.nn.tasks import yaml_model_load
    from ultralytics.utils import YAML

    try:
        return YAML.load(name) if Path(name).is_file() else yaml_model_load(name)
    except Exception as e:
        raise WeightsError(
            f"--model {name}: no such model description, neither as a file nor among Ultralytics' own "
            f"(yolov8n.yaml, yolo11n.yaml, yolo12n.yaml, yolov10n.yaml, yolo26n.yaml, …): {str(e).splitlines()[0]}"
        ) from e


def _checked_description(description: object, origin: str) -> dict[str, Any]:
    """A copy of a model description in which every name is a layer's and every value a literal.

    Ultralytics looks layer names up among everything that its module imports, and evaluates ``activation``.
    """
    if not isinstance(description, Mapping) or not {"backbone", "head"} <= description.keys():
        raise WeightsError(f"{origin} has no model description with a backbone and a head; add --model.")
    from torch import nn
    from ultralytics.nn import tasks

    checked = dict(description)
    activation = checked.get("activation")
    if activation is not None:
        match = _ACTIVATION.fullmatch(str(activation))
        layer = getattr(nn, match[1], None) if match else None
        if not match or not (isinstance(layer, type) and issubclass(layer, nn.Module)) or not _are_literals(match[2]):
            raise WeightsError(f"the activation {activation!r} of {origin} is not a layer such as nn.SiLU().")
    try:
        rows = [*checked["backbone"], *checked["head"]]
        layers = [str(row[2]) for row in rows]
    except (TypeError, IndexError) as e:
        raise WeightsError(f"the model description of {origin} is malformed: {e}.") from e
    for name in layers:
        value = getattr(nn, name.removeprefix("nn."), None) if name.startswith("nn.") else getattr(tasks, name, None)
        is_layer = isinstance(value, type) and issubclass(value, nn.Module)
        if not is_layer or not f"{value.__module__}.".startswith(LAYER_MODULES):
            raise WeightsError(f"the model description of {origin} names {name!r}, which is no layer.")
    if layers[-1] not in DETECT_HEADS:
        raise WeightsError(
            f"{origin} ends in the head {layers[-1]}; only detection models (Detect, v10Detect) can be built."
        )
    return checked


def _are_literals(arguments: str) -> bool:
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
    except SyntaxError:
        return False
    if not isinstance(call, ast.Call):
        return False
    return all(isinstance(v, ast.Constant) for v in [*call.args, *(k.value for k in call.keywords)])
