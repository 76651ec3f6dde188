"""Small models for a real tritonserver, and small trainings."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import builder.backends

if TYPE_CHECKING:
    from tests.trainings import Training

WriteModel = Callable[..., Path]

PIXELS = 4
CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 8
input [{{ name: "images" data_type: TYPE_UINT8 dims: [{pixels}, 3] }}]
output [{{ name: "sums" data_type: TYPE_FP32 dims: [2] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
{more}
"""


@pytest.fixture(scope="session")
def write_model() -> WriteModel:
    """``write_model(repository, name)``: a model on OpenVINO that sums an image's pixels.

    ``more`` is added to its configuration, ``code`` replaces the OpenVINO model.
    """

    def write(repository: Path, name: str, more: str = "", code: str | None = None) -> Path:
        version = repository / name / "1"
        version.mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(CONFIG.format(name=name, more=more, pixels=PIXELS))
        if code is None:
            shutil.copy(Path(*builder.backends.__path__, "openvino_model.py"), version / "model.py")
            (version / "model.onnx").write_bytes(_graph())
        else:
            (version / "model.py").write_text(code)
        return repository / name

    return write


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Of a small network on few images, as processes of its own."""
    from tests.trainings import Training, write_dataset, write_network

    folder = tmp_path_factory.mktemp("small")
    return Training(write_dataset(folder / "data"), write_network(folder))


@pytest.fixture(scope="session")
def two_processes(training: Training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that torchrun's agent has started, nothing interrupted."""
    from tests.trainings import TWO

    run = tmp_path_factory.mktemp("two") / "run"
    training.finish(run, *TWO)
    return run


def _graph() -> bytes:
    """images UINT8 [B, pixels, 3] -> sums FP32 [B, 2]: the sum of all pixels, and that sum halved."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.stack([np.ones(PIXELS * 3), np.full(PIXELS * 3, 0.5)], axis=1).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["pixels"], ["row"], axis=1),
            helper.make_node("MatMul", ["row", "weights"], ["sums"]),
        ],
        "sums",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", "pixels", 3])],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["B", 2])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
