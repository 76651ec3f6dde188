"""The served graph on onnxruntime's GPU providers, which serve it where a version has no plan yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builder import parity
from builder.artifacts import Head
from builder.weights import load_network
from tests.gpu.running import Served, agreement, run_in_onnxruntime

pytestmark = pytest.mark.gpu(reason="never run: no GPU could be had")

SHAPES = Path(__file__).parents[2] / "examples" / "shapes" / "shapes.pt"


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_the_graph_finds_what_pytorch_finds(
    provider: str,
    served: Callable[[Head], Served],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    sample = served(Head.DETECTIONS)
    spec = sample.spec
    reference = parity.torch_reference(load_network(SHAPES), sample.pictures, spec.iou, spec.max_detections)
    output = run_in_onnxruntime(provider, sample.model.path, sample.images, tmp_path)
    found = agreement(reference.detections, parity.finish(output, spec))
    record_property(provider, found.to_record())
    found.check()
