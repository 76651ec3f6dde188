"""A real tritonserver on repositories as builds leave them: finished, killed and failed."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from builder.artifacts import OnnxModel, TensorSpec
from builder.errors import ServerError
from builder.repository import publish
from builder.serving import ServingSettings
from builder.verify import verify
from tests.deployments import deployment

MODEL = OnnxModel(
    path=Path("model.onnx"),
    sha256="0" * 64,
    inputs=(TensorSpec(name="images", dtype="UINT8", shape=(8, 8, 3)),),
    outputs=(TensorSpec(name="detections", dtype="FP32", shape=(1, 6)),),
)
# Answers with its version, as the server and as the file beside it have it.
SERVES_ITS_VERSION = """
import pathlib

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        weights = pathlib.Path(args["model_repository"], args["model_version"], "model.onnx").read_text()
        self.answer = np.zeros((1, 1, 6), np.float32)
        self.answer[0, 0, :2] = int(args["model_version"]), int(weights)

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("detections", self.answer)]) for _ in requests]
"""


def put(repository, name, weights):
    return publish(
        repository,
        name,
        files={"model.onnx": weights, "model.py": SERVES_ITS_VERSION.encode(), "labels.txt": b"circle\n"},
        configs=deployment(MODEL, name, settings=ServingSettings(max_batch=1), classes=("circle",)).configs,
        build={},
    )


def put_until_killed(repository, name, weights, nth):
    """Publish in a process of its own that is killed before its n-th file system call; whether it was."""
    child = os.fork()
    if child == 0:
        remaining = nth

        def count(event, arguments):
            nonlocal remaining
            if event.startswith(("open", "os.")):
                remaining -= 1
                if remaining == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        put(repository, name, weights)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def state(model):
    """What a server could tell apart: the versions, and the version that each configuration names."""
    configs = [model / "config.pbtxt", *sorted((model / "configs").iterdir())]
    versions = sorted(path.name for path in model.iterdir() if path.name.isdigit())
    return tuple(versions), tuple(path.read_text().partition("versions: [")[2][0] for path in configs)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Models whose second build was killed, each at another stage; one whose first build was; one that is finished."""
    with pytest.MonkeyPatch.context() as patch:
        # A killed process loses nothing that it wrote; only a power cut does.
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield killed_builds(tmp_path_factory.mktemp("killed") / "repository")


def killed_builds(repository):
    put(repository, "finished", b"1")
    put(repository, "finished", b"2")
    put(repository, "back", b"1")
    put(repository, "back", b"2")
    put(repository, "back", b"1")

    states = set()
    for nth in range(1, 1000):
        name = f"killed_{nth}"
        put(repository, name, b"1")
        killed = put_until_killed(repository, name, b"2", nth)
        leaves_temporary = any(path.name.startswith(".tmp-") for path in (repository / name).iterdir())
        seen = (*state(repository / name), leaves_temporary)
        if seen in states or not killed:
            # One server cannot start hundreds of models; this one looks as another does.
            for path in sorted((repository / name).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            (repository / name).rmdir()
        states.add(seen)
        if not killed:
            break
    assert not killed
    # One version; two versions and no, one, two and three configurations replaced; with and without leftovers.
    assert len(states) == 7

    for nth in (3, 20, 40):
        assert put_until_killed(repository, f"first_{nth}", b"1", nth)
    assert not list(repository.glob("first_*"))
    return repository


@pytest.fixture(scope="module")
def client(repository, triton_server):
    server = triton_server(repository, config_name="cpu", log_file=repository.parent / "log")
    with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        yield client


def served(client, name):
    """The version that a model answers with, and what is in that version's model.onnx."""
    images = grpcclient.InferInput("images", [1, 8, 8, 3], "UINT8")
    images.set_data_from_numpy(np.zeros((1, 8, 8, 3), np.uint8))
    return client.infer(name, [images]).as_numpy("detections")[0, 0, :2].tolist()


def test_the_finished_build_is_served_alone(client):
    assert served(client, "finished") == [2, 2]
    assert client.is_model_ready("finished", "2")
    assert not client.is_model_ready("finished", "1")


def test_an_older_build_that_was_made_again_is_served(client):
    assert served(client, "back") == [1, 1]


def test_every_model_whose_build_was_killed_serves_the_version_that_its_config_names(client, repository):
    killed = sorted(path.name for path in repository.glob("killed_*"))
    assert len(killed) == 7
    versions = set()
    for name in killed:
        named = int((repository / name / "configs" / "cpu.pbtxt").read_text().partition("versions: [")[2][0])
        assert served(client, name) == [named, named]
        versions.add(named)
    assert versions == {1, 2}


def test_the_server_complains_of_nothing_but_the_temporary_folders(client, repository):
    log = (repository.parent / "log").read_text().splitlines()
    models = [line for line in log if line[:1] in "EW" and "model" in line]
    assert models
    assert all("ignore version directory '.tmp-" in line for line in models)


def test_a_repository_that_was_served_still_verifies(client, repository):
    assert [str(report) for report in verify(repository) if not report.ok] == []


def test_a_config_that_names_a_missing_version_is_not_served(tmp_path, triton_server):
    put(tmp_path / "repository", "shapes", b"1")
    config = tmp_path / "repository" / "shapes" / "configs" / "cpu.pbtxt"
    config.write_text(config.read_text().replace("versions: [1]", "versions: [2]"))
    complaint = "version 2 is specified for model 'shapes', but the version directory is not present"
    with pytest.raises(ServerError, match=rf"model shapes: No model version was found \({complaint}\)"):
        triton_server(tmp_path / "repository", config_name="cpu")


@pytest.mark.parametrize("name", ["half", ".half"])
def test_a_folder_that_is_no_model_keeps_the_server_from_starting(tmp_path, triton_server, name):
    """Why a model's first version is staged outside the repository."""
    put(tmp_path / "repository", "shapes", b"1")
    (tmp_path / "repository" / name / "1").mkdir(parents=True)
    with pytest.raises(ServerError):
        triton_server(tmp_path / "repository", config_name="cpu")


def test_files_beside_the_models_do_no_harm(tmp_path, triton_server):
    put(tmp_path / "repository", "shapes", b"1")
    (tmp_path / "repository" / ".shapes.lock").touch()
    (tmp_path / "repository" / "README.md").touch()
    server = triton_server(tmp_path / "repository", config_name="cpu")
    assert server.models() == [("shapes", "1", "READY")]
