"""Every configuration that is written, against a real tritonserver that completes none of them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import InferenceServerException

import builder.backends
from builder.artifacts import Head, OnnxModel, TensorSpec
from builder.errors import ServerError
from builder.repository import publish
from builder.serving import ServingSettings
from tests.deployments import deployment
from tests.waiting import wait_until

CLASSES = ("circle", "square", 'a "quoted" näme')
SHAPES = {
    Head.DETECTIONS: (
        TensorSpec(name="images", dtype="UINT8", shape=(32, 32, 3)),
        TensorSpec(name="detections", dtype="FP32", shape=(300, 6)),
    ),
    Head.RAW: (
        TensorSpec(name="images", dtype="FP32", shape=(3, 32, 32)),
        TensorSpec(name="output0", dtype="FP32", shape=(7, 21)),
    ),
}

# Answers with how many requests each call has brought since the model was loaded.
RECORDER = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.calls = []

    def execute(self, requests):
        before = list(self.calls)
        self.calls.append(len(requests))
        answer = np.zeros((1, 300, 6), np.float32)
        answer[0, 0, : len(before)] = before
        return [pb_utils.InferenceResponse([pb_utils.Tensor("detections", answer)]) for _ in requests]
"""

# Answers when the file "closed" is gone.
GATED = """
import pathlib
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.folder = pathlib.Path(args["model_repository"])

    def execute(self, requests):
        (self.folder / "entered").touch()
        while (self.folder / "closed").exists():
            time.sleep(0.005)
        answer = np.zeros((1, 300, 6), np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("detections", answer)]) for _ in requests]
"""


def onnx_model(path, head):
    """A graph of the head's contract that answers with the brightest value, twice that for the second number."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    image, output = SHAPES[head]
    weights = np.ones((1, *output.shape), np.float32)
    weights.flat[1] = 2
    kinds = {"UINT8": TensorProto.UINT8, "FP32": TensorProto.FLOAT}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["pixels"], ["brightest"], axes=[1, 2, 3], keepdims=0),
            helper.make_node("Reshape", ["brightest", "column"], ["brightest_B11"]),
            helper.make_node("Mul", ["brightest_B11", "weights"], [output.name]),
        ],
        "brightest",
        [helper.make_tensor_value_info("images", kinds[image.dtype], ["B", *image.shape])],
        [helper.make_tensor_value_info(output.name, kinds[output.dtype], ["B", *output.shape])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.array([-1, 1, 1]), "column")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return OnnxModel(path=path, sha256="0" * 64, inputs=(image,), outputs=(output,))


def put(repository, model, name, *, head=Head.DETECTIONS, code=None, gpu="t4", plan=None, **settings):
    """Publish a model as ``build`` does; ``code`` stands in for the OpenVINO model."""
    default = Path(*builder.backends.__path__, "openvino_model.py")
    return publish(
        repository,
        name,
        files={
            "model.onnx": model.path,
            "model.py": default if code is None else code.encode(),
            "labels.txt": "".join(f"{each}\n" for each in CLASSES).encode(),
        },
        configs=deployment(
            model,
            name,
            head=head,
            gpus=[gpu],
            plans=[plan],
            settings=ServingSettings(**settings),
            classes=CLASSES,
            parameters={"metadata": "{'task': 'detect'}"} if head is Head.RAW else None,
        ).configs,
        build={},
    )


def put_twin(repository, original, name):
    """A model of the original's GPU configuration, but for the backend and the device, which this machine lacks."""
    config = text_format.Parse((original / "config.pbtxt").read_text(), pb.ModelConfig())
    config.name = name
    config.backend = "python"
    config.ClearField("default_model_filename")
    config.instance_group[0].kind = pb.ModelInstanceGroup.KIND_CPU
    shutil.copytree(original / "1", repository / name / "1")
    (repository / name / "1" / "model.py").write_text(RECORDER)
    (repository / name / "config.pbtxt").write_text(text_format.MessageToString(config, as_utf8=True))
    return config


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    return {head: onnx_model(folder / f"{head}.onnx", head) for head in Head}


@pytest.fixture(scope="module")
def repository(tmp_path_factory, graphs):
    repository = tmp_path_factory.mktemp("on_cpu") / "repository"
    put(repository, graphs[Head.DETECTIONS], "shapes", priority_levels=3)
    put(repository, graphs[Head.RAW], "raw", head=Head.RAW, max_batch=4)
    put(repository, graphs[Head.DETECTIONS], "recorder", code=RECORDER)
    one_at_a_time = {"code": GATED, "max_batch": 1, "max_queue_size": 2}
    put(repository, graphs[Head.DETECTIONS], "bounded", **one_at_a_time, queue_timeout_ms=600_000)
    put(repository, graphs[Head.DETECTIONS], "hasty", **{**one_at_a_time, "max_queue_size": 100}, queue_timeout_ms=300)
    put_twin(repository, repository / "shapes", "twin")
    return repository


@pytest.fixture(scope="module")
def client(repository, triton_server):
    server = triton_server(repository, config_name="cpu", log_file=repository.parent / "log")
    with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        yield client


def image_input(images):
    tensor = grpcclient.InferInput("images", list(images.shape), "UINT8" if images.dtype == np.uint8 else "FP32")
    tensor.set_data_from_numpy(images)
    return tensor


def missing_from(served, written, path=""):
    """Every field of the message as written that the message as served does not have, or has otherwise."""
    if not hasattr(written, "ListFields"):
        return [] if served == written else [f"{path}: {written!r} became {served!r}"]
    missing = []
    for field, value in written.ListFields():
        there, here = getattr(served, field.name), f"{path}.{field.name}"
        if field.message_type and field.message_type.GetOptions().map_entry:
            for key in value:
                missing += missing_from(there[key], value[key], f"{here}[{key}]")
        elif field.is_repeated:
            if len(there) != len(value):
                missing.append(f"{here}: {len(value)} became {len(there)}")
            for number, (one, other) in enumerate(zip(there, value, strict=False)):
                missing += missing_from(one, other, f"{here}[{number}]")
        else:
            missing += missing_from(there, value, here)
    return missing


class TestOnTheCpu:
    @pytest.mark.parametrize("name", ["shapes", "raw", "recorder", "bounded", "hasty"])
    def test_config_is_served_as_it_was_written(self, client, repository, name):
        written = text_format.Parse((repository / name / "configs" / "cpu.pbtxt").read_text(), pb.ModelConfig())
        served = client.get_model_config(name).config
        assert missing_from(served, written) == []

    def test_gpu_config_is_served_as_it_was_written_but_for_backend_and_device(self, client, repository):
        written = text_format.Parse((repository / "twin" / "config.pbtxt").read_text(), pb.ModelConfig())
        assert written.optimization.execution_accelerators.gpu_execution_accelerator[0].name == "tensorrt"
        assert missing_from(client.get_model_config("twin").config, written) == []

    def test_a_client_reads_the_contract_and_the_class_names(self, client):
        config = client.get_model_config("raw").config
        assert config.parameters["contract"].string_value == "raw/1"
        assert tuple(json.loads(config.parameters["names"].string_value)) == CLASSES
        assert config.parameters["metadata"].string_value == "{'task': 'detect'}"

    def test_openvino_answers_a_batch_of_images(self, client):
        images = np.zeros((3, 32, 32, 3), np.uint8)
        images[1, 5, 5, 0], images[2] = 7, 255
        answer = client.infer("shapes", [image_input(images)]).as_numpy("detections")
        assert answer.shape == (3, 300, 6)
        assert answer[:, 0, :2].tolist() == [[0, 0], [7, 14], [255, 510]]

    def test_openvino_answers_raw_images(self, client):
        images = np.full((4, 3, 32, 32), 0.5, np.float32)
        answer = client.infer("raw", [image_input(images)]).as_numpy("output0")
        assert answer.shape == (4, 7, 21)
        assert answer[0, 0, :2].tolist() == [0.5, 1.0]

    def test_a_batch_beyond_the_largest_is_refused(self, client):
        with pytest.raises(InferenceServerException, match="batch-size must be <= 4"):
            client.infer("raw", [image_input(np.zeros((5, 3, 32, 32), np.float32))])

    def test_labels_are_read_from_the_versions_folder(self, client):
        requested = grpcclient.InferRequestedOutput("detections", class_count=1)
        images = np.ones((1, 32, 32, 3), np.uint8)
        answer = client.infer("shapes", [image_input(images)], outputs=[requested]).as_numpy("detections")
        assert answer.ravel()[0] == b"2.000000:1:square"

    @pytest.mark.parametrize("name", ["recorder", "twin"])
    def test_warmup_runs_one_image_and_then_the_largest_batch_before_the_model_is_ready(self, client, name):
        answer = client.infer(name, [image_input(np.zeros((1, 32, 32, 3), np.uint8))]).as_numpy("detections")
        assert answer[0, 0, :3].tolist() == [1, 8, 0]


class Gated:
    """A model that answers one image at a time, and none of them until it is let go."""

    def __init__(self, client, folder):
        self.client, self.folder, self.outcomes = client, folder, []
        (folder / "entered").unlink(missing_ok=True)
        (folder / "closed").touch()
        self.first = self.send()
        wait_until(self._has_entered)

    def _has_entered(self):
        # A queue may refuse the first request too, where the server's machine is busy for longer than it may wait.
        if self.first:
            assert "Request timeout expired" in self.first[0].message()
            self.first = self.send()
        return (self.folder / "entered").exists()

    def send(self, **options):
        """The list that the answer or the error will be in."""
        outcome = []
        images = image_input(np.zeros((1, 32, 32, 3), np.uint8))
        self.client.async_infer(
            self.folder.name, [images], lambda result, error: outcome.append(error or result), **options
        )
        self.outcomes.append(outcome)
        return outcome

    def let_go(self):
        (self.folder / "closed").unlink(missing_ok=True)
        wait_until(lambda: all(self.outcomes))


@pytest.fixture
def gated(client, repository):
    """``gated(name)``: the model of that name, busy with its first request."""
    models = []

    def hold(name):
        models.append(Gated(client, repository / name))
        return models[-1]

    yield hold
    for model in models:
        model.let_go()


class TestQueue:
    """``bounded`` has room for two waiting requests and ten minutes; ``hasty`` for a hundred and 300 ms."""

    def test_requests_beyond_the_bound_are_refused_while_those_within_it_wait(self, gated):
        model = gated("bounded")
        outcomes = [model.send() for _ in range(10)]
        wait_until(lambda: sum(map(bool, outcomes)) >= 8)
        refused = [outcome[0] for outcome in outcomes if outcome]
        assert len(refused) == 8
        assert all("Exceeds maximum queue size" in str(error.message()) for error in refused)
        model.let_go()
        answered = [outcome[0] for outcome in outcomes if isinstance(outcome[0], grpcclient.InferResult)]
        assert len(answered) == 2

    def test_requests_that_wait_too_long_are_refused_while_the_model_is_busy(self, gated):
        model = gated("hasty")
        outcomes = [model.send() for _ in range(4)]
        wait_until(lambda: all(outcomes))
        assert all("Request timeout expired" in outcome[0].message() for outcome in outcomes)
        model.let_go()
        assert isinstance(model.first[0], grpcclient.InferResult)

    def test_a_request_may_ask_for_less_time_but_not_for_more(self, gated):
        patient, hurried = gated("bounded"), gated("hasty")
        less, more = patient.send(timeout=1_000), hurried.send(timeout=3_600_000_000)
        wait_until(lambda: less and more)
        assert "Request timeout expired" in less[0].message()
        assert "Request timeout expired" in more[0].message()


NO_BACKEND = "unable to find backend library for backend 'onnxruntime'"

# Each is one small slip, and what the server says of it.
SLIPS = {
    "unknown_field": ("max_queue_size:", "max_queue_length:", 'has no field named "max_queue_length"'),
    "unknown_kind": ("KIND_GPU", "KIND_TPU", 'Unknown enumeration value of "KIND_TPU"'),
    "two_batchers": (
        "dynamic_batching {",
        "sequence_batching {} dynamic_batching {",
        'member of oneof "scheduling_choice"',
    ),
    "no_elements": ("dims: [300, 6]", "dims: [300, 0]", "dimension must be integer >= 1"),
    "no_type": ("TYPE_UINT8", "TYPE_INVALID", "model input 'images' must specify 'data_type'"),
    "no_version": ("versions: [1]", "versions: [2]", "version 2 is specified for model 'no_version', but"),
    "wrong_name": ('name: "wrong_name"', 'name: "right_name"', "directory name must equal model name"),
}


@pytest.fixture(scope="module")
def log(tmp_path_factory, graphs, triton_server):
    """What the server says of good configurations and of some with one slip each."""
    repository = tmp_path_factory.mktemp("on_gpu") / "repository"
    put(repository, graphs[Head.DETECTIONS], "good", gpu="t4")
    put(repository, graphs[Head.RAW], "good_raw", head=Head.RAW, gpu="h100-sxm", instances=2, max_batch=16)
    for name, (right, wrong, _) in SLIPS.items():
        put(repository, graphs[Head.DETECTIONS], name)
        config = repository / name / "config.pbtxt"
        assert right in config.read_text()
        config.write_text(config.read_text().replace(right, wrong))
    log = repository.parent / "log"
    with pytest.raises(ServerError):
        triton_server(repository, log_file=log)
    return log.read_text().splitlines()


class TestOnTheGpu:
    """This server has no onnxruntime backend: that must be the one thing that it finds wrong."""

    @pytest.mark.parametrize("name", ["good", "good_raw"])
    def test_config_lacks_nothing_but_the_backend(self, log, name):
        complaints = [line for line in log if re.match(rf"[EW]\d{{4}} .*\b{name}\b", line)]
        assert len(complaints) == 1
        assert f"failed to load '{name}' version 1: Invalid argument: {NO_BACKEND}" in complaints[0]

    @pytest.mark.parametrize("name", SLIPS)
    def test_the_server_says_something_else_of_a_config_with_a_slip(self, log, name):
        complaints = [number for number, line in enumerate(log) if re.match(rf"E\d{{4}} .*\b{name}\b", line)]
        assert complaints
        # The parser writes its own line, just before the one that names the model.
        said = log[complaints[0] - 1 : complaints[-1] + 1]
        assert any(SLIPS[name][2] in line for line in said)
        assert not any(NO_BACKEND in line for line in said)
