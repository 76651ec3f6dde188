"""A ``.pt`` file as inert parts: nothing that it says is run.

A checkpoint is a pickle, and a pickle is a program. Its globals are listed first: whatever is not a layer of torch.nn
or ultralytics.nn, a tensor's own helper or a plain container is refused by name. Then it is unpickled by torch's
restricted unpickler with every layer class replaced by an inert `_Shell`, which only holds attributes: no constructor
and no ``__setstate__`` of a real class runs on the file's data.
"""

from __future__ import annotations

import contextlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import WeightsError

if TYPE_CHECKING:
    import torch

SAMPLE = "examples/shapes/shapes.pt"
LAYER_MODULES = ("torch.nn.modules.", "ultralytics.nn.modules.")
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
# Containers that torch's restricted unpickler rebuilds by itself.
_CONTAINERS = frozenset({"collections.OrderedDict", "builtins.set", "builtins.dict", "builtins.list"})


class _Shell:
    """Stands where the pickle names a class: holds attributes, does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __new__(cls, *args: object, **kwargs: object) -> _Shell:
        return object.__new__(cls)


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


def check_archive(path: Path) -> None:
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
    if not f"{module}.".startswith(LAYER_MODULES):
        return False
    import importlib

    from torch import nn

    try:
        value = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    return isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module


def unpickle(path: Path, *, trust: bool) -> Any:
    """The checkpoint's content, its layers as shells; with ``trust`` the file is unpickled as it is.

    Raises:
        WeightsError: it names what it must not, or is damaged.
    """
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


def model_entry(content: Any) -> Any:
    """The model of a checkpoint: as Ultralytics, the EMA where there is one; else a state_dict at its usual places."""
    if not isinstance(content, Mapping):
        return content
    for key in ("ema", "model", "state_dict", "model_state_dict"):
        if content.get(key) is not None:
            return content[key]
    return content


def is_tensor(value: object) -> bool:
    """Whether a value of a checkpoint is a tensor."""
    import torch

    return isinstance(value, torch.Tensor)


def stored_state(shell: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """What ``nn.Module.state_dict()`` gives, read from a tree of shells."""
    state: dict[str, torch.Tensor] = {}
    attributes = shell.__dict__
    transient = attributes.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for name, value in _mapping(attributes.get(group)).items():
            if is_tensor(value) and name not in transient:
                state[prefix + name] = value
    for name, child in _mapping(attributes.get("_modules")).items():
        if isinstance(child, _Shell):
            state |= stored_state(child, f"{prefix}{name}.")
    return state


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
