"""What one stage of the pipeline hands to the next: small, frozen, and free of heavy libraries."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path


class Precision(enum.StrEnum):
    """The arithmetic of the network; pre- and postprocessing are FP32 at every precision."""

    FP32 = "fp32"
    FP16 = "fp16"


class Head(enum.StrEnum):
    """What the served graph speaks at its two ends."""

    DETECTIONS = "detections"
    """``images`` UINT8 NHWC in, ``detections`` FP32 [N, 6] out, suppression in the graph."""
    RAW = "raw"
    """Ultralytics' own contract: ``images`` FP32 NCHW in, ``output0`` out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One input or output of a graph, the batch dimension left out."""

    name: str
    dtype: str
    """Triton's name of the type: UINT8, FP32, ..."""
    shape: tuple[int, ...]
    """Without the batch dimension."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnnxModel:
    """An ONNX file and what is known of it."""

    path: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigFile:
    """One Triton model configuration: ``config.pbtxt``, or ``configs/<name>.pbtxt``."""

    relative_path: str
    """Relative to the model's folder."""
    text: str
    """The ModelConfig message in protobuf's text format, with ``{VERSION}`` already filled in."""
