"""Run a graph in process on the CPU, in onnxruntime and in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from builder.errors import ParityError

Array: TypeAlias = NDArray[Any]
Run: TypeAlias = Callable[[str, Array], list[Array]]
"""Takes the input's name and a batch, gives the outputs."""


def run_batch(runtime: str, load: Callable[[Path], Run], path: Path, name: str, batch: Array) -> list[Array]:
    """The outputs for the whole batch, having run the first image alone as well: a dynamic batch must be dynamic."""
    try:
        run = load(path)
        alone, together = run(name, batch[:1]), run(name, batch)
    except Exception as e:  # each runtime has its own exceptions
        raise ParityError(f"{path.name} does not run in {runtime}: {str(e).strip().splitlines()[0]}") from e
    for a, b in zip(alone, together, strict=True):
        if a.shape[1:] != b.shape[1:] or len(b) != len(batch):
            raise ParityError(
                f"{path.name} in {runtime}: a batch of {len(batch)} gives {b.shape}, one image {a.shape}."
            )
    return together


def _onnxruntime(path: Path) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda name, batch: list(session.run(None, {name: batch}))


def _openvino(path: Path) -> Run:
    import openvino as ov

    # Without it, OpenVINO may compute in bfloat16 where the processor can.
    model = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda name, batch: [np.array(v) for v in model({name: batch}).values()]


RUNTIMES: Mapping[str, Callable[[Path], Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
