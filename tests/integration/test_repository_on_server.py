"""A real tritonserver on repositories as builds leave them: finished, killed and failed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from builder.errors import ServerError
from builder.verify import verify
from tests.integration.killed_builds import put

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """That of ``killed_builds``."""
    repository = tmp_path_factory.mktemp("killed") / "repository"
    command = [sys.executable, "-m", "tests.integration.killed_builds", str(repository)]
    # OpenBLAS would start threads before the forks.
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=alone, check=False, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
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
