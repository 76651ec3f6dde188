"""A model that computes nothing: what a client costs shows best on cores that no graph keeps busy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.contract import CONTRACT, INPUT, OUTPUT, Contract

MODEL_PY = f'''
"""Answers every image with the same rows, those of rows.npy."""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.rows = np.load(Path(args["model_repository"], args["model_version"], "rows.npy"))

    def execute(self, requests):
        return [self.answer(len(pb_utils.get_input_tensor_by_name(each, "{INPUT}").as_numpy())) for each in requests]

    def answer(self, images):
        return pb_utils.InferenceResponse([pb_utils.Tensor("{OUTPUT}", np.stack([self.rows] * images))])
'''

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: {max_batch_size}
input {{ name: "{input}" data_type: TYPE_UINT8 dims: [{height}, {width}, 3] }}
output {{ name: "{output}" data_type: TYPE_FP32 dims: [{rows}, 6] }}
instance_group {{ kind: KIND_CPU count: 1 }}
dynamic_batching {{ }}
parameters {{ key: "contract" value {{ string_value: "{contract}" }} }}
parameters {{ key: "names" value {{ string_value: {names} }} }}
"""


def write_instant_model(repository: Path, contract: Contract, rows_N6: NDArray[np.float32]) -> None:
    """A model of the same name and contract, in ``configs/cpu.pbtxt`` as this project's models have it.

    ``rows_N6``, float32 [N, 6], is its answer to every image.
    """
    version = repository / contract.model / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL_PY)
    np.save(version / "rows.npy", rows_N6)
    config = CONFIG.format(
        name=contract.model,
        max_batch_size=contract.max_batch_size,
        input=INPUT,
        height=contract.size_hw[0],
        width=contract.size_hw[1],
        output=OUTPUT,
        rows=contract.max_detections,
        contract=CONTRACT,
        # JSON in a string of protobuf's text format, whose escapes are JSON's.
        names=json.dumps(json.dumps(contract.names)),
    )
    (repository / contract.model / "config.pbtxt").write_text(config)
    (repository / contract.model / "configs").mkdir()
    (repository / contract.model / "configs" / "cpu.pbtxt").write_text(config)
