"""What the builder plans with before there is an engine, against what the engine takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder import parity
from builder.artifacts import OnnxModel, Precision
from builder.cache import file_sha256
from builder.engine import EngineOptions, Profile
from builder.export import export_network
from builder.graph_cost import graph_cost
from builder.head import attach_head
from builder.precision import convert_precision
from builder.weights import load_network
from tests.gpu.running import Compiler, PlanRunner
from tests.networks import head_spec, live_model, photographs, save_checkpoint

pytestmark = pytest.mark.gpu(reason="never run: no GPU could be had")

SIZE = 640
BATCHES = (1, 8, 16)
WITHIN = 0.25


@pytest.mark.parametrize("family", ["yolov8n", "yolov8s", "yolo11n"])
def test_the_engine_takes_what_was_estimated(
    tensorrt: Compiler,
    family: str,
    timings: EngineOptions,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    weights = save_checkpoint(live_model(family, size=SIZE), tmp_path / f"{family}.pt")
    network = export_network(load_network(weights), (SIZE, SIZE), tmp_path / "network.onnx")
    pixels = parity.to_pixels(photographs(SIZE))
    half = convert_precision(network, Precision.FP16, pixels, tmp_path / "fp16.onnx")
    path = tmp_path / "model.onnx"
    attach_head(half, head_spec(half), path)
    model = OnnxModel(path=path, sha256=file_sha256(path), inputs=(), outputs=())
    profiles = [Profile(batch_min=1, batch_opt=batch, batch_max=batch) for batch in BATCHES]
    plan = tensorrt.build(model, profiles, tmp_path / "model.plan", timings)
    engine = PlanRunner(tensorrt.trt, plan.path).engine
    taken = [engine.get_device_memory_size_for_profile_v2(index) for index in range(len(BATCHES))]
    estimated = [graph_cost(path).activation_bytes(batch) for batch in BATCHES]
    off = [estimate / bytes_ - 1 for estimate, bytes_ in zip(estimated, taken, strict=True)]
    for batch, bytes_, share in zip(BATCHES, taken, off, strict=True):
        record_property(f"batch {batch}", f"{bytes_ / 1e6:.1f} MB, the estimate is off by {share:+.1%}")
    assert plan.device_memory_bytes == max(taken)
    assert max(map(abs, off)) <= WITHIN
