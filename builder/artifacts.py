"""What one stage of the pipeline hands to the next: small, frozen, and free of heavy libraries."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


class Precision(enum.StrEnum):
    """The arithmetic of the network; pre- and postprocessing are FP32 at every precision."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    """Quantized where it pays, FP16 elsewhere."""


class CpuPrecision(enum.StrEnum):
    """OpenVINO's arithmetic where a CPU serves the network; pre- and postprocessing are FP32 all the same."""

    FP32 = "fp32"
    BF16 = "bf16"
    """Where the CPU has it, else FP32."""


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


class NetworkOutput(enum.StrEnum):
    """What a network's graph gives before the head is attached."""

    LOGITS = "logits"
    """``boxes`` [B, 4R, A] (distances or their distributions), ``scores`` [B, C, A]: what the convolutions give."""
    DECODED = "decoded"
    """``output0`` [B, 4 + C, A]: cx cy w h in pixels, then probabilities. A user's ONNX file."""
    DETECTIONS = "detections"
    """``output0`` [B, N, 6]: finished detections. A user's ONNX file, exported end to end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkModel:
    """The network's graph: ``pixels`` FP32 [B, 3, H, W] RGB in [0, 1] in, ``NetworkOutput`` out; no head."""

    path: Path
    output: NetworkOutput
    imgsz: tuple[int, int]
    """Height and width in pixels."""
    strides: tuple[int, ...]
    reg_max: int
    names: tuple[str, ...]
    nms_free: bool
    parameters: int
    """Number of weights."""
    key_mismatches: str = ""
    """What ``--allow-partial`` let pass, in one line."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, all but the path."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "path"}

    @classmethod
    def from_json(cls, values: dict[str, Any], path: Path) -> NetworkModel:
        """What ``to_json`` gave, read back from JSON."""
        return cls(
            path=path,
            output=NetworkOutput(values["output"]),
            imgsz=(values["imgsz"][0], values["imgsz"][1]),
            strides=tuple(values["strides"]),
            reg_max=values["reg_max"],
            names=tuple(values["names"]),
            nms_free=values["nms_free"],
            parameters=values["parameters"],
            key_mismatches=values["key_mismatches"],
        )
