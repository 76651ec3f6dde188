"""Builds as publishing leaves them, finished or killed: ``python -m tests.integration.killed_builds REPOSITORY``.

A process of its own, because it forks: in one with threads, a fork may copy a lock that another thread holds.
"""

import os
import signal
import sys
from pathlib import Path

from builder.artifacts import OnnxModel, TensorSpec
from builder.repository import publish
from builder.serving import ServingSettings
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


def killed_builds(repository):
    """Models whose second build was killed, each at another stage; one whose first build was; one that is finished."""
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
    assert len(states) == 7, states

    for nth in (3, 20, 40):
        assert put_until_killed(repository, f"first_{nth}", b"1", nth)
    assert not list(repository.glob("first_*"))


if __name__ == "__main__":
    # A killed process loses nothing that it wrote; only a power cut does.
    os.fsync = lambda descriptor: None
    killed_builds(Path(sys.argv[1]))
