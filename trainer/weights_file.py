"""weights/*.pt: a trained network as Ultralytics stores one, which the builder takes and checks key by key."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from builder.durable import replace_file
from builder.model_description import build_module


def write_weights(
    path: Path,
    state: Mapping[str, torch.Tensor],
    *,
    description: Mapping[str, Any],
    names: Mapping[int, str],
    arguments: Mapping[str, Any],
    run: Mapping[str, Any],
    half: bool,
) -> None:
    """Write the network of ``description`` with the tensors of ``state``, whole or not at all.

    The module is built anew: what a training hangs on it (criterion, hooks, synchronized batch norm) stays behind.

    Raises:
        OSError: it cannot be written.
    """
    import ultralytics

    cleaned = {**description, "yaml_file": Path(str(description.get("yaml_file", ""))).name}
    module: Any = build_module(cleaned, classes=len(names), origin=path.name)
    module.load_state_dict({key: tensor.cpu() for key, tensor in state.items()})
    module = (module.half() if half else module.float()).eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    plain = {key: value for key, value in arguments.items() if _is_plain(value)}
    module.names, module.args, module.task, module.pt_path = dict(names), plain, "detect", path.name
    content = {
        "epoch": -1,
        "model": module,
        "ema": None,
        "optimizer": None,
        "train_args": plain,
        "run": dict(run),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
    }
    archive = io.BytesIO()
    torch.save(content, archive)
    replace_file(path, archive.getvalue())


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)
