"""A detector so small that a real tritonserver answers it in no time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from builder.backends import openvino_model_path

SIZE = 32
ROWS = 4
CONFIG = """
name: "tiny"
backend: "python"
max_batch_size: 8
input [{ name: "images" data_type: TYPE_UINT8 dims: [32, 32, 3] }]
output [{ name: "detections" data_type: TYPE_FP32 dims: [4, 6] }]
instance_group [{ count: 1 kind: KIND_CPU }]
dynamic_batching { max_queue_delay_microseconds: 500 }
parameters { key: "contract" value { string_value: "detections/1" } }
parameters { key: "names" value { string_value: "[\\"thing\\"]" } }
"""


def write_tiny_model(repository: Path, versions: Sequence[int] = (1,)) -> Path:
    """Model "tiny" on OpenVINO: images UINT8 [B, 32, 32, 3] -> detections FP32 [B, 4, 6], which are sums of the pixels.

    The repository is returned.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).uniform(0, 1e-3, (SIZE * SIZE * 3, ROWS * 6)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["pixels"], ["row"], axis=1),
            helper.make_node("MatMul", ["row", "weights"], ["sums"]),
            helper.make_node("Reshape", ["sums", "shape"], ["detections"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["B", ROWS, 6])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([-1, ROWS, 6], np.int64), "shape"),
        ],
    )
    for version in versions:
        folder = repository / "tiny" / str(version)
        folder.mkdir(parents=True)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
        )
        shutil.copy(openvino_model_path(), folder / "model.py")
    (repository / "tiny" / "configs").mkdir()
    for path in ("config.pbtxt", "configs/cpu.pbtxt"):
        (repository / "tiny" / path).write_text(CONFIG)
    return repository
