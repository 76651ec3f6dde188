"""The trained sample in FP16, ready to be built for this machine's GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder import parity
from builder.artifacts import Head, OnnxModel, Precision
from builder.cache import file_sha256
from builder.engine import EngineOptions, Library
from builder.export import export_network
from builder.head import attach_head
from builder.precision import convert_precision
from builder.weights import load_network
from clients.images import read_image
from clients.letterbox import letterbox
from tests.gpu.running import Compiler, Served, compiler_or_skip
from tests.networks import head_spec

SAMPLE = Path(__file__).parents[2] / "examples" / "shapes"

Record = Callable[[str, object], None]


@pytest.fixture(params=list(Library), ids=str)
def compiler(request: pytest.FixtureRequest, record_property: Record) -> Compiler:
    """TensorRT, and TensorRT-RTX, where it builds for this GPU."""
    found = compiler_or_skip(request.param)
    record_property(found.library.value, found.trt.__version__)
    return found


@pytest.fixture
def tensorrt(record_property: Record) -> Compiler:
    """TensorRT itself."""
    found = compiler_or_skip(Library.TENSORRT)
    record_property(found.library.value, found.trt.__version__)
    return found


@pytest.fixture(scope="session")
def timings(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    """A timing cache for all tests but the one of the cache itself: what was timed once need not be again."""
    return EngineOptions(timing_cache=tmp_path_factory.mktemp("timings") / "shared.cache")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Head], Served]:
    """``served(head)``: the sample's graph in FP16, with four pictures full of shapes."""
    folder = tmp_path_factory.mktemp("served")

    @functools.cache
    def fp16() -> tuple[Any, np.ndarray]:
        network = export_network(load_network(SAMPLE / "shapes.pt"), None, folder / "network.onnx")
        picture = letterbox(read_image(SAMPLE / "unseen.jpg"), network.imgsz)[0]
        dimmed = (picture * 0.8).astype(np.uint8)
        pictures = np.ascontiguousarray(np.stack([picture, picture[:, ::-1], picture[::-1], dimmed]))
        pixels = parity.to_pixels(pictures)
        return convert_precision(network, Precision.FP16, pixels, folder / "fp16.onnx"), pictures

    @functools.cache
    def serve(head: Head) -> Served:
        network, pictures = fp16()
        spec = head_spec(network, head)
        path = folder / f"{head}.onnx"
        attach_head(network, spec, path)
        model = OnnxModel(path=path, sha256=file_sha256(path), inputs=(), outputs=())
        return Served(network=network, spec=spec, model=model, pictures=pictures)

    return serve
