"""A ``.pt`` checkpoint becomes a checked PyTorch network, without running anything that the file says.

It is read as inert parts (``builder.checkpoint``). The network is built anew from the checkpoint's model description
(``builder.model_description``; Ultralytics evaluates parts of it), and the tensors are loaded into it key by key.

``trust=True`` is the way round all of it: the file is unpickled as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.checkpoint import SAMPLE, check_archive, check_file, is_tensor, model_entry, stored_state, unpickle
from builder.errors import WeightsError
from builder.model_description import build_module, read_yaml

if TYPE_CHECKING:
    import torch
    from torch import nn


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
    check_archive(path)
    content = unpickle(path, trust=trust)
    model = model_entry(content)
    if isinstance(model, Mapping):
        state = {str(k): v for k, v in model.items() if is_tensor(v)}
        if not state:
            raise WeightsError(
                f"{path} holds neither a model nor a state_dict; expected an Ultralytics detection checkpoint."
            )
        if model_yaml is None:
            raise WeightsError(
                f"{path} holds a state_dict alone ({len(state)} tensors), without the network that it belongs to; "
                "add --model, for example --model yolo11n.yaml."
            )
        description, stored_names, imgsz = read_yaml(model_yaml), None, None
    else:
        task = type(model).__name__
        if task != "DetectionModel":
            raise WeightsError(f"{path} is {_task_name(task)}; only detection models can be built.")
        if trust:
            return _network(model.float().eval(), names, _imgsz(content), KeyReport())
        state = stored_state(model)
        description = read_yaml(model_yaml) if model_yaml else model.__dict__.get("yaml")
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
