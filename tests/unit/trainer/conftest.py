"""A small data set, a small network, and a training of both in this process."""

from __future__ import annotations

import signal
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
    """A run of three epochs of six steps, nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder) == 0
    return folder


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process get a SIGTERM while the training is in its ``step``-th step, counted from 1."""
    from trainer.loop import TrainingLoop

    record = TrainingLoop._record

    def recorded(training: TrainingLoop, number: int, within: int) -> None:
        record(training, number, within)
        if number + 1 == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(TrainingLoop, "_record", recorded)


def interrupt_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process get a SIGTERM while the training validates."""
    from trainer.loop import TrainingLoop

    leave = TrainingLoop._leave_validation

    def told(training: TrainingLoop, validator: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        leave(training, validator)

    monkeypatch.setattr(TrainingLoop, "_leave_validation", told)
