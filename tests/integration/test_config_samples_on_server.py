"""Configurations of fleets drawn at random, against a real tritonserver that completes none of them.

It has the Python backend alone. A CPU's configuration loads as it is. A fleet's is taken apart: as a twin on the Python
backend, where all but backend and device is loaded; and as it is, where the missing backend must be the one complaint.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import tritonclient.grpc as grpcclient
from google.protobuf import text_format
from hypothesis import HealthCheck, Phase, given, settings
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as pb

from builder.artifacts import Head, OnnxModel, TensorSpec
from builder.deployment import Deployment
from builder.errors import BuilderError, ServerError
from builder.graph_cost import graph_cost
from builder.repository import publish
from builder.server import TritonServer
from tests.fleets import build_flags, deployed

SAMPLES = 24
# Hypothesis changes little from one example to the next.
APART = 8
NAMES = [f"sample_{number:02}" for number in range(SAMPLES)]
TENSORS = {
    Head.DETECTIONS: (
        TensorSpec(name="images", dtype="UINT8", shape=(32, 32, 3)),
        TensorSpec(name="detections", dtype="FP32", shape=(300, 6)),
    ),
    Head.RAW: (
        TensorSpec(name="images", dtype="FP32", shape=(3, 32, 32)),
        TensorSpec(name="output0", dtype="FP32", shape=(7, 21)),
    ),
}
BACKEND = re.compile(r"unable to find backend library for backend '(\w+)'")

# Stands for the graph: it answers zeros of the output's shape.
ZEROS = b"""
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.output = json.loads(args["model_config"])["output"][0]

    def execute(self, requests):
        answer = np.zeros((1, *map(int, self.output["dims"])), np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor(self.output["name"], answer)]) for _ in requests]
"""


def drawn(path: Path) -> dict[str, Deployment]:
    """The same fleets each time, out of many; every second one has its plans."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ("batch", 3, 32, 32))
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ("batch", 3, 32, 32))
    body = helper.make_graph([helper.make_node("Relu", ["images"], ["out"])], "relu", [images], [out])
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    cost = graph_cost(path)
    found: dict[str, Deployment] = {}
    examples = itertools.count()

    @settings(
        max_examples=2 * APART * SAMPLES,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(build_flags())
    def draw(flags: dict[str, Any]) -> None:
        if len(found) == SAMPLES or next(examples) % APART:
            return
        # Each instance is a process here: of many there is no more to be seen than of two.
        few = {"instances": str(min(int(flags["instances"]), 2))} if "instances" in flags else {}
        image, output = TENSORS[Head(flags.get("head", Head.DETECTIONS))]
        model = OnnxModel(path=path, sha256="0" * 64, inputs=(image,), outputs=(output,))
        name = NAMES[len(found)]
        try:
            _, found[name] = deployed(flags | few, model, cost, name=name, with_plan=len(found) % 2 == 1)
        except BuilderError:
            return

    draw()
    return found


def put(repository: Path, deployment: Deployment) -> Path:
    """The model as ``build`` publishes it; its plans are files with nothing in them."""
    plans = {each.plan: b"" for each in deployment.fleet if each.plan}
    files = {"model.onnx": deployment.model.path, "model.py": ZEROS, "labels.txt": b"circle\n", **plans}
    publish(repository, deployment.name, files=files, configs=deployment.configs, build={})
    return repository / deployment.name


def put_twin(model: Path, name: str) -> None:
    """The fleet's configuration of a model, but for the backend and the device, which this machine lacks."""
    config = text_format.Parse((model / "config.pbtxt").read_text(), pb.ModelConfig())
    config.name, config.backend = name, "python"
    config.ClearField("default_model_filename")
    config.ClearField("cc_model_filenames")
    config.instance_group[0].kind = pb.ModelInstanceGroup.KIND_CPU
    shutil.copytree(model / "1", model.with_name(name) / "1")
    (model.with_name(name) / "config.pbtxt").write_text(text_format.MessageToString(config, as_utf8=True))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    for deployment in drawn(folder / "graph.onnx").values():
        put(folder / "repository", deployment)
    return folder / "repository"


@pytest.fixture(scope="module")
def client(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, triton_server: Callable[..., TritonServer]
) -> Iterator[grpcclient.InferenceServerClient]:
    """One server with all samples as a CPU serves them, and the twins."""
    served = tmp_path_factory.mktemp("served") / "repository"
    shutil.copytree(repository, served)
    for name in NAMES:
        put_twin(served / name, f"twin_of_{name}")
    server = triton_server(served, config_name="cpu", log_file=served.parent / "log")
    with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        yield client


@pytest.fixture(scope="module")
def complaints(repository: Path, triton_server: Callable[..., TritonServer]) -> list[str]:
    """What a server says that is to load the fleets' own configurations."""
    log = repository.parent / "log"
    with pytest.raises(ServerError):
        triton_server(repository, log_file=log)
    return [line for line in log.read_text().splitlines() if re.match(r"[EW]\d{4} ", line)]


def as_written(served: Any, written: Any) -> None:
    """The server has taken every section as it is, but for what it completes: names, and the batches to prefer."""
    for section in ("name", "backend", "max_batch_size", "version_policy", "input", "output", "model_warmup"):
        assert getattr(served, section) == getattr(written, section), section
    assert dict(served.parameters) == dict(written.parameters)
    served.dynamic_batching.ClearField("preferred_batch_size")
    assert served.dynamic_batching == written.dynamic_batching
    for ours, theirs in zip(written.instance_group, served.instance_group, strict=True):
        assert (theirs.count, theirs.kind) == (ours.count, ours.kind)


def test_the_samples_differ_in_everything_that_a_fleet_may_be_asked_for(repository: Path) -> None:
    configs = [text_format.Parse((repository / name / "config.pbtxt").read_text(), pb.ModelConfig()) for name in NAMES]
    assert {config.backend for config in configs} == {"onnxruntime", "tensorrt"}
    assert {config.parameters["contract"].string_value for config in configs} == {"detections/1", "raw/1"}
    assert len({config.max_batch_size for config in configs}) > 4
    assert len({config.dynamic_batching.priority_levels for config in configs}) > 4
    assert len({config.dynamic_batching.default_queue_policy.max_queue_size for config in configs}) > 4
    assert len({config.dynamic_batching.default_queue_policy.default_timeout_microseconds for config in configs}) > 4
    assert len({len(config.cc_model_filenames) for config in configs}) > 2


@pytest.mark.parametrize("name", NAMES)
def test_a_cpus_configuration_loads_as_it_was_written(
    client: grpcclient.InferenceServerClient, repository: Path, name: str
) -> None:
    written = text_format.Parse((repository / name / "configs" / "cpu.pbtxt").read_text(), pb.ModelConfig())
    assert client.is_model_ready(name)
    as_written(client.get_model_config(name).config, written)


@pytest.mark.parametrize("name", NAMES)
def test_a_fleets_configuration_loads_as_it_was_written_but_for_backend_and_device(
    client: grpcclient.InferenceServerClient, repository: Path, name: str
) -> None:
    written = text_format.Parse((repository / name / "config.pbtxt").read_text(), pb.ModelConfig())
    served = client.get_model_config(f"twin_of_{name}").config
    assert client.is_model_ready(f"twin_of_{name}")
    assert served.optimization.execution_accelerators == written.optimization.execution_accelerators
    assert served.optimization.cuda == written.optimization.cuda
    written.name, written.backend = f"twin_of_{name}", "python"
    written.instance_group[0].kind = pb.ModelInstanceGroup.KIND_CPU
    as_written(served, written)


@pytest.mark.parametrize("name", NAMES)
def test_a_fleets_configuration_lacks_nothing_but_its_backend(
    complaints: list[str], repository: Path, name: str
) -> None:
    written = text_format.Parse((repository / name / "config.pbtxt").read_text(), pb.ModelConfig())
    (complaint,) = [line for line in complaints if re.search(rf"\b{name}\b", line)]
    found = BACKEND.search(complaint)
    assert found is not None, complaint
    assert found[1] == written.backend
