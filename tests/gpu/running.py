"""Plans and graphs run on the GPU, and what comes out compared.

Tensor suffixes: B images, N detections.
"""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder import parity
from builder.artifacts import Head, NetworkModel, OnnxModel, Precision
from builder.engine import EngineOptions, Library, Plan, Profile, build_plan, what_is_missing
from builder.head import HeadSpec
from builder.nvml import read_devices

TOLERANCE = parity.TOLERANCES[Precision.FP16]


@dataclass(frozen=True)
class Served:
    """A trained network in FP16, its served graph, and pictures as a client sends them."""

    network: NetworkModel
    spec: HeadSpec
    model: OnnxModel
    pictures: np.ndarray
    """UINT8 [B, H, W, 3]."""

    @property
    def images(self) -> np.ndarray:
        """The pictures as the graph takes them."""
        return self.pictures if self.spec.head is Head.DETECTIONS else parity.to_pixels(self.pictures)


@dataclass(frozen=True)
class Agreement:
    """Two sets of detections, at the operating threshold."""

    detections: int
    matched: float
    """Share of both sides' detections with a counterpart of their class at IoU 0.9 or more."""
    confidence_p95: float
    box_p95_px: float

    def to_record(self) -> str:
        return (
            f"{self.matched:.2%} of {self.detections} detections matched, p95 of confidence {self.confidence_p95:.2g}, "
            f"of boxes {self.box_p95_px:.2g} px"
        )

    def check(self) -> None:
        """Within what FP16 may differ by."""
        assert self.detections > 20
        assert self.matched >= TOLERANCE.matched
        assert self.confidence_p95 <= TOLERANCE.probability_p95
        assert self.box_p95_px <= TOLERANCE.box_p95_px


def agreement(expected: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> Agreement:
    """Detections [N, 6] by image, as ``parity.finish`` gives them."""
    both, found, pairs_off = 0, 0, [np.zeros((0, 6))]
    for theirs, ours in zip(expected, got, strict=True):
        assert np.isfinite(ours).all()
        pairs = [(i, j) for i, j in parity.matches(ours, theirs) if max(ours[i, 4], theirs[j, 4]) >= parity.CONFIDENCE]
        both += sum(int((rows[:, 4] >= parity.CONFIDENCE).sum()) for rows in (theirs, ours))
        found += sum(int(ours[i, 4] >= parity.CONFIDENCE) + int(theirs[j, 4] >= parity.CONFIDENCE) for i, j in pairs)
        pairs_off += [np.abs(ours[i] - theirs[j])[None] for i, j in pairs]
    off = np.concatenate(pairs_off)
    p95 = np.percentile(off, 95, axis=0) if len(off) else np.full(6, np.inf)
    return Agreement(
        detections=sum(int((rows[:, 4] >= parity.CONFIDENCE).sum()) for rows in expected),
        matched=found / both if both else 0.0,
        confidence_p95=float(p95[4]),
        box_p95_px=float(p95[:4].max()),
    )


@dataclass(frozen=True)
class Compiler:
    """TensorRT or TensorRT-RTX, and its Python module."""

    library: Library
    trt: Any

    def build(self, model: OnnxModel, profiles: Sequence[Profile], path: Path, options: EngineOptions) -> Plan:
        """The plan for this machine's GPU; TensorRT-RTX takes no options, and Turing is not among its own choices."""
        if self.library is Library.TENSORRT:
            return build_plan(model, profiles, path, options=options)
        capability = read_devices()[0].compute_capability
        return build_plan(model, profiles, path, library=self.library, compute_capability=capability)


def compiler_or_skip(library: Library) -> Compiler:
    """The library, where it is installed and knows this machine's GPU."""
    if missing := what_is_missing(library):
        pytest.skip(missing)
    trt = importlib.import_module(library)
    capability = read_devices()[0].compute_capability
    known = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    if known and f"SM{capability.replace('.', '')}" not in known:
        pytest.skip(f"{library.value} {trt.__version__} does not build for compute capability {capability}")
    return Compiler(library=library, trt=trt)


@functools.cache
def runtime(trt: Any) -> Any:
    """One runtime, and its logger, for the whole process: they must outlive every engine."""
    logger = trt.Logger(trt.Logger.WARNING)
    return trt.Runtime(logger), logger


class PlanRunner:
    """A plan in its own runtime, its buffers in torch's memory."""

    def __init__(self, trt: Any, path: Path) -> None:
        self._trt = trt
        self.engine = runtime(trt)[0].deserialize_cuda_engine(path.read_bytes())
        assert self.engine is not None, f"{path.name} does not load in {trt.__name__} {trt.__version__}"
        self._context = self.engine.create_execution_context()
        assert self._context is not None

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs by name, for images of the engine's one input."""
        import torch

        if not torch.cuda.is_available():
            pytest.skip(f"torch {torch.__version__}, which holds the buffers, finds no GPU that it can use")
        trt, context = self._trt, self._context
        names = [self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)]
        (inputs, outputs) = (
            [name for name in names if self.engine.get_tensor_mode(name) == mode]
            for mode in (trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT)
        )
        (input_name,) = inputs
        buffers = {input_name: torch.from_numpy(np.ascontiguousarray(images)).cuda()}
        assert context.set_input_shape(input_name, tuple(images.shape))
        types = {"FLOAT": torch.float32, "HALF": torch.float16, "UINT8": torch.uint8, "INT32": torch.int32}
        for name in outputs:
            shape = tuple(context.get_tensor_shape(name))
            buffers[name] = torch.empty(shape, dtype=types[self.engine.get_tensor_dtype(name).name], device="cuda")
        for name, buffer in buffers.items():
            assert context.set_tensor_address(name, buffer.data_ptr())
        stream = torch.cuda.Stream()
        # The copy runs on another stream.
        torch.cuda.synchronize()
        assert context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return {name: buffers[name].cpu().numpy() for name in outputs}


def run_in_onnxruntime(provider: str, graph: Path, images: np.ndarray, folder: Path) -> np.ndarray:
    """The graph's first output, by one of onnxruntime's GPU providers, in a process of its own.

    onnxruntime brings no CUDA libraries; those that torch has loaded may be of another release.
    """
    images_file, output_file = folder / f"{provider}-images.npy", folder / f"{provider}-output.npy"
    np.save(images_file, images)
    command = [sys.executable, "-m", "tests.gpu.onnxruntime_session", provider, graph, images_file, output_file]
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
    if done.returncode == NOT_LOADED:
        pytest.skip(f"onnxruntime's {provider} does not load here: {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(output_file)


NOT_LOADED = 77
