"""Run a graph in process on the CPU, in onnxruntime and in OpenVINO."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from builder.artifacts import CpuPrecision
from builder.errors import ParityError

Array: TypeAlias = NDArray[Any]
Run: TypeAlias = Callable[[Mapping[str, Array]], list[Array]]
"""Takes a batch by its input's name, gives the outputs."""


def run_batch(runtime: str, load: Callable[[Path], Run], path: Path, name: str, batch: Array) -> list[Array]:
    """The outputs for the whole batch, having run the first image alone as well: a dynamic batch must be dynamic."""
    try:
        run = load(path)
        alone, together = run({name: batch[:1]}), run({name: batch})
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
    return lambda feed: list(session.run(None, dict(feed)))


@functools.cache
def openvino_core() -> Any:
    """The one Core of this process: when the second of two is gone, the next signal kills the process (2026.4)."""
    import openvino as ov

    return ov.Core()


def _openvino(path: Path, precision: str = "f32") -> Run:
    # Left to itself, OpenVINO computes in bf16 on a CPU with AMX.
    model = openvino_core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return lambda feed: [np.array(v) for v in model(dict(feed)).values()]


def cpu_has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this machine where it is asked to."""
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def runtimes(cpu_precision: CpuPrecision) -> Mapping[str, Callable[[Path], Run]]:
    """What a graph is checked in: FP32 in both, and bf16 in OpenVINO where a CPU would serve it so and this one can."""
    if cpu_precision is CpuPrecision.BF16 and cpu_has_bf16():
        return {**RUNTIMES, OPENVINO_BF16: functools.partial(_openvino, precision="bf16")}
    return RUNTIMES


OPENVINO_BF16 = "openvino bf16"
RUNTIMES: Mapping[str, Callable[[Path], Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
