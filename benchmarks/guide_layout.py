"""A model as Ultralytics' Triton guide lays it out: its own FP32 export of free sizes, its metadata, a raw head."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.errors import ExportError

MAX_BATCH_SIZE = 4
"""What Triton's own completion of a configuration writes for a graph of dynamic batch."""


def write_guide_models(weights: Path, size_hw: tuple[int, int], repository: Path, runtimes: Mapping[str, str]) -> None:
    """Export the weights and write them as models of the repository, one for each name and runtime of guide_model.py.

    Raises:
        ExportError: Ultralytics cannot export these weights.
    """
    with tempfile.TemporaryDirectory(prefix="yolo-triton-") as folder:
        # The exporter writes beside the weights.
        copy = Path(folder, "model.pt")
        shutil.copyfile(weights, copy)
        metadata = _export(copy, size_hw)
        for name, runtime in runtimes.items():
            version = repository / name / "1"
            version.mkdir(parents=True)
            shutil.copyfile(copy.with_suffix(".onnx"), version / "model.onnx")
            shutil.copyfile(Path(__file__).with_name("guide_model.py"), version / "model.py")
            (repository / name / "config.pbtxt").write_text(_config(name, runtime, metadata))


def _export(weights: Path, size_hw: tuple[int, int]) -> dict[str, Any]:
    """Write model.onnx beside the weights, and give the metadata that the guide copies into the configuration."""
    from ultralytics.models import YOLO
    from ultralytics.utils import LOGGER

    metadata: list[dict[str, Any]] = []
    try:
        # It would tell of its progress on stdout, where the report goes.
        LOGGER.setLevel(logging.ERROR)
        model = YOLO(weights)
        model.add_callback("on_export_end", lambda exporter: metadata.append(exporter.metadata))
        model.export(format="onnx", dynamic=True, imgsz=list(size_hw))
    except Exception as error:  # the exporter raises its own kinds, torch's and onnx's alike
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"expected weights that Ultralytics can export, {weights.name} gave: {reason}") from error
    return metadata[0]


def _config(name: str, runtime: str, metadata: dict[str, Any]) -> str:
    """What the guide leaves to Triton's completion is written out: this server is started without it."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    config = pb.ModelConfig(name=name, backend="python", max_batch_size=MAX_BATCH_SIZE)
    config.input.add(name="images", data_type=pb.TYPE_FP32, dims=[3, -1, -1])
    config.output.add(name="output0", data_type=pb.TYPE_FP32, dims=[4 + len(metadata["names"]), -1])
    config.instance_group.add(count=1, kind=pb.ModelInstanceGroup.KIND_CPU)
    config.dynamic_batching.SetInParent()
    config.parameters["runtime"].string_value = runtime
    config.parameters["metadata"].string_value = str(metadata)
    return str(text_format.MessageToString(config, as_utf8=True))
