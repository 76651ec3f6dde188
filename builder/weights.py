"""A ``.pt`` checkpoint becomes a checked PyTorch network, without running anything that the file says.

A checkpoint is a pickle, and a pickle is a program. It is read in three steps:

1. Its globals are listed. Whatever is not a layer of torch.nn or ultralytics.nn, a tensor's own helper or a plain
   container is refused by name.
2. It is unpickled by torch's restricted unpickler with every layer class replaced by an inert `_Shell`, which only
   holds attributes: no constructor and no ``__setstate__`` of a real class runs on the file's data.
3. The network is built anew from the checkpoint's model description, which is checked too (Ultralytics evaluates parts
   of it), and the tensors are loaded into it key by key.

``trust=True`` is the way round all three: the file is unpickled as it is.
"""

from __future__ import annotations

import ast
import contextlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import nn

SAMPLE = "examples/shapes/shapes.pt"
DETECT_HEADS = frozenset({"Detect", "v10Detect"})
# What a pickled tensor, a plain container and Ultralytics' training arguments need beside the layers.
_HELPERS = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "builtins.set",
        "builtins.dict",
        "builtins.list",
        "ultralytics.utils.IterableSimpleNamespace",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    }
)
_LAYER_MODULES = ("torch.nn.modules.", "ultralytics.nn.modules.")
_ACTIVATION = re.compile(r"(?:torch\.)?nn\.([A-Za-z0-9]+)\((.*)\)")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyReport:
    """How a checkpoint's keys fit the network."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()
    """``key (checkpoint's shape, expected network's shape)``."""

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshaped)

    def describe(self, most: int = 5) -> str:
        """One line: every kind with its count and its first ``most`` keys."""
        parts = []
        for kind, keys in (("missing", self.missing), ("unexpected", self.unexpected), ("mis-shaped", self.misshaped)):
            if keys:
                more = f", … {len(keys) - most} more" if len(keys) > most else ""
                parts.append(f"{len(keys)} {kind}: {', '.join(keys[:most])}{more}")
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A detection network in FP32, in evaluation mode, with what is known of it."""

    module: nn.Module
    """Takes FP32 [B, 3, H, W] RGB in [0, 1]; answers as Ultralytics' models do in evaluation mode."""
    names: tuple[str, ...]
    strides: tuple[int, ...]
    """Pixels per cell, a figure per detection level."""
    reg_max: int
    """Bins of the box distribution per side; 1 where the head regresses the distance itself."""
    nms_free: bool
    """The head is one-to-one (YOLOv10, YOLO26): top-k alone, no suppression."""
    trained_imgsz: tuple[int, int] | None
    """Height and width in pixels that the checkpoint says it was trained at."""
    keys: KeyReport = field(default_factory=KeyReport)


class _Shell:
    """Stands where the pickle names a class: holds attributes, does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __new__(cls, *args: object, **kwargs: object) -> _Shell:
        return object.__new__(cls)


def find_weights(path: Path) -> Path:
    """``path`` itself where it is a file; else the published weights of that bare name, downloaded by Ultralytics.

    Raises:
        WeightsError: there is no such file, or it cannot be downloaded; the message names the sample.
    """
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; expected a .pt or .onnx file.")
    if path.exists():
        if path.suffix.lower() == ".pt":
            check_file(path)
        return path
    if path.name != str(path) or path.suffix != ".pt":
        raise WeightsError(f"no weights at {path}; the sample {SAMPLE} is a detector to try with.")
    from builder.download import published_weights

    return published_weights(path.name)


def load_network(
    path: Path,
    *,
    model_yaml: str | None = None,
    names: tuple[str, ...] | None = None,
    allow_partial: bool = False,
    trust: bool = False,
) -> Network:
    """Load a checkpoint of Ultralytics', or a bare state_dict beside ``model_yaml``, into a checked network.

    Raises:
        WeightsError: the file is no checkpoint, is no detector, names what it must not, or its keys do not fit.
    """
    check_file(path)
    _check_archive(path)
    content = _unpickle(path, trust=trust)
    model = _model_entry(content)
    if isinstance(model, Mapping):
        state = {str(k): v for k, v in model.items() if _is_tensor(v)}
        if not state:
            raise WeightsError(
                f"{path} holds neither a model nor a state_dict; expected an Ultralytics detection checkpoint."
            )
        if model_yaml is None:
            raise WeightsError(
                f"{path} holds a state_dict alone ({len(state)} tensors), without the network that it belongs to; "
                "add --model, for example --model yolo11n.yaml."
            )
        description, stored_names, imgsz = _read_yaml(model_yaml), None, None
    else:
        task = type(model).__name__
        if task != "DetectionModel":
            raise WeightsError(f"{path} is {_task_name(task)}; only detection models can be built.")
        if trust:
            return _network(model.float().eval(), names, _imgsz(content), KeyReport())
        state = _state_dict(model)
        description = _read_yaml(model_yaml) if model_yaml else model.__dict__.get("yaml")
        stored_names, imgsz = model.__dict__.get("names"), _imgsz(content)
    stored = _names_tuple(stored_names)
    if names and stored and len(names) != len(stored):
        raise WeightsError(f"--names gives {len(names)} names, {path} has {len(stored)} classes: {', '.join(stored)}.")
    wanted = names or stored
    module = build_module(description, classes=len(wanted) if wanted else None, origin=model_yaml or str(path))
    keys = load_state(module, state)
    if keys and not allow_partial:
        raise WeightsError(
            f"{path} does not fit its network ({len(module.state_dict())} keys): {keys.describe()}. Give the --model "
            "that it was trained with (and --names), or load what fits with --allow-partial."
        )
    return _network(module.float().eval(), wanted, imgsz, keys)


def check_file(path: Path) -> None:
    """Refuse what is not a readable zip-format torch checkpoint, naming what it is instead."""
    if not path.exists():
        raise WeightsError(f"no weights at {path}; the sample {SAMPLE} is a detector to try with.")
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; expected a .pt or .onnx file.")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as e:
        raise WeightsError(f"{path} cannot be read: {e.strerror}.") from e
    if not start:
        raise WeightsError(f"{path} is empty; expected a PyTorch checkpoint. Download or copy it again.")
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(f"{path} is a web page, not a checkpoint: the download went wrong. Fetch the file itself.")
    if not start.startswith(b"PK"):
        raise WeightsError(
            f"{path} is not a PyTorch checkpoint (it starts with {start[:8]!r}, expected a zip archive). If it was "
            "saved by a PyTorch before 1.6, save it again with a newer one."
        )


def _check_archive(path: Path) -> None:
    """Compare the archive's members with their checksums: torch does not, and damaged weights would be published."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, zlib.error) as e:
        raise WeightsError(_damaged(path, e)) from e
    if damaged:
        raise WeightsError(f"{path} is damaged: its part {damaged} fails its checksum. Download or copy it again.")


def unsafe_globals(path: Path) -> list[str]:
    """The globals of a checkpoint's pickle that are neither a layer, a tensor's helper nor a plain container.

    Raises:
        WeightsError: the archive cannot be read.
    """
    return [name for name in _globals(path) if not _is_allowed(name)]


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


def load_state(module: nn.Module, state: Mapping[str, torch.Tensor]) -> KeyReport:
    """Copy the tensors that fit into ``module`` and report the keys that do not; a ``module.`` prefix is taken off."""
    state = {_without_prefix(key): value for key, value in state.items()}
    expected = module.state_dict()
    misshaped = {k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape}
    module.load_state_dict(
        {k: v.float() for k, v in state.items() if k in expected and k not in misshaped}, strict=False
    )
    return KeyReport(
        missing=tuple(k for k in expected if k not in state),
        unexpected=tuple(k for k in state if k not in expected),
        misshaped=tuple(
            f"{k} ({tuple(state[k].shape)}, expected {tuple(expected[k].shape)})" for k in expected if k in misshaped
        ),
    )


def _globals(path: Path) -> list[str]:
    import torch

    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception as e:  # torch raises RuntimeError, UnpicklingError, EOFError or ValueError by the kind of damage
        raise WeightsError(_damaged(path, e)) from e


def _is_allowed(name: str) -> bool:
    """Whether a pickled global is a layer, a tensor's own helper or a plain container."""
    if name in _HELPERS or name.startswith(("torch._utils._rebuild_", "torch.storage.")):
        return True
    return _is_layer(name) or _is_model_class(name)


def _is_model_class(name: str) -> bool:
    # Only a name by which a task is recognised: its shell is never called. YOLOv10's own class is of 2024's releases.
    return re.fullmatch(r"ultralytics\.nn\.tasks\.[A-Za-z0-9]+Model", name) is not None


def _is_layer(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    if not f"{module}.".startswith(_LAYER_MODULES):
        return False
    import importlib

    from torch import nn

    try:
        value = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    return isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module


def _unpickle(path: Path, *, trust: bool) -> Any:
    import torch

    if trust:
        try:
            return torch.load(path, map_location="cpu", weights_only=False)
        except Exception as e:
            raise WeightsError(_damaged(path, e)) from e
    names = _globals(path)
    refused = [name for name in names if not _is_allowed(name)]
    if refused:
        raise WeightsError(
            f"{path} names {len(refused)} global(s) that are no layer of torch.nn or ultralytics.nn: "
            f"{', '.join(refused[:8])}. Loading it could run any code; if you know who made it, add --trust-weights."
        )
    shells = [(type(name.rpartition(".")[2], (_Shell,), {}), name) for name in names if name not in _CONTAINERS]
    with _safe_globals(shells):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as e:
            raise WeightsError(_damaged(path, e)) from e


# Containers that torch's restricted unpickler rebuilds by itself.
_CONTAINERS = frozenset({"collections.OrderedDict", "builtins.set", "builtins.dict", "builtins.list"})


@contextlib.contextmanager
def _safe_globals(shells: list[tuple[type, str]]) -> Iterator[None]:
    import torch

    with torch.serialization.safe_globals(shells):  # type: ignore[arg-type]
        yield


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "torchscript" in str(error).lower():
        return f"{path} is a TorchScript archive; give the .pt checkpoint that it was exported from."
    return f"{path} is damaged or no PyTorch checkpoint ({reason[:120]}). Download or copy it again."


def _model_entry(content: Any) -> Any:
    """The model of a checkpoint: as Ultralytics, the EMA where there is one; else a state_dict at its usual places."""
    if not isinstance(content, Mapping):
        return content
    for key in ("ema", "model", "state_dict", "model_state_dict"):
        if content.get(key) is not None:
            return content[key]
    return content


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _state_dict(shell: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """What ``nn.Module.state_dict()`` gives, read from a tree of shells."""
    state: dict[str, torch.Tensor] = {}
    attributes = shell.__dict__
    transient = attributes.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for name, value in _mapping(attributes.get(group)).items():
            if _is_tensor(value) and name not in transient:
                state[prefix + name] = value
    for name, child in _mapping(attributes.get("_modules")).items():
        if isinstance(child, _Shell):
            state |= _state_dict(child, f"{prefix}{name}.")
    return state


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _without_prefix(key: str) -> str:
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key


def _task_name(class_name: str) -> str:
    tasks = {
        "SegmentationModel": "a segmentation model",
        "PoseModel": "a pose model",
        "OBBModel": "an oriented-box (OBB) model",
        "ClassificationModel": "a classification model",
        "RTDETRDetectionModel": "an RT-DETR model",
        "WorldModel": "a YOLO-World model",
    }
    return tasks.get(class_name, f"of the class {class_name}, which is no YOLO detection model")


def _read_yaml(name: str) -> object:
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
        if not is_layer or not f"{value.__module__}.".startswith(_LAYER_MODULES):
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


def _names_tuple(names: object) -> tuple[str, ...] | None:
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            raise WeightsError(f"class names are numbered {list(names)[:5]}; expected 0, 1, 2, … without gaps.")
        return tuple(str(names[key]) for key in sorted(names))
    if isinstance(names, list | tuple):
        return tuple(str(name) for name in names)
    return None


def _imgsz(content: Any) -> tuple[int, int] | None:
    arguments = content.get("train_args") if isinstance(content, Mapping) else None
    size = arguments.get("imgsz") if isinstance(arguments, Mapping) else None
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2 and all(isinstance(side, int) for side in size):
        return size[0], size[1]
    return None


def _network(
    module: nn.Module, names: tuple[str, ...] | None, imgsz: tuple[int, int] | None, keys: KeyReport
) -> Network:
    head: Any = module.model[-1]  # type: ignore[index]
    # Ultralytics 8.4 evaluates the one-to-many head unless told; the one-to-one head is what needs no suppression.
    nms_free = getattr(head, "one2one_cv2", None) is not None
    if nms_free:
        head.end2end = True
    stored = _names_tuple(getattr(module, "names", None))
    if stored is None or len(stored) != head.nc:
        stored = tuple(str(i) for i in range(head.nc))
    chosen = names or stored
    if len(chosen) != head.nc:
        raise WeightsError(f"--names gives {len(chosen)} names, the network has {head.nc} classes.")
    if any(not name.strip() or not name.isprintable() for name in chosen):
        raise WeightsError(
            f"class names must be printable and not empty, got {list(chosen)}; give others with --names."
        )
    return Network(
        module=module,
        names=chosen,
        strides=tuple(int(s) for s in head.stride.tolist()),
        reg_max=int(head.reg_max),
        nms_free=nms_free,
        trained_imgsz=imgsz,
        keys=keys,
    )
