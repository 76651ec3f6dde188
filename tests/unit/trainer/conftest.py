"""A small data set, a small network, and a training of both in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainings import SETTINGS, write_dataset, write_network
from trainer.cli import main

Train = Callable[..., int]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data.yaml."""
    return write_dataset(tmp_path_factory.mktemp("shapes") / "data")


@pytest.fixture(scope="session")
def train(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """``train(run, *more)``: a training on one thread; its exit code."""
    network = write_network(tmp_path_factory.mktemp("network"))

    def run(folder: Path, *more: str) -> int:
        fixed = ("--data", str(dataset), "--model", str(network), *SETTINGS.split())
        return main(["train", "--run", str(folder), *fixed, *more])

    return run


@pytest.fixture(scope="session")
def whole_run(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs of six steps, nothing interrupted, every checkpoint kept."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder, "--save-steps", "1", "--keep-last", "99") == 0
    return folder


def cut_back(run: Path, folder: Path, checkpoint: str) -> Path:
    """A copy of a run as if it had died after ``checkpoint``."""
    shutil.copytree(run, folder)
    for path in (folder / "checkpoints").iterdir():
        if path.stem > checkpoint:
            path.unlink()
    (folder / "run.json").unlink()
    return folder
