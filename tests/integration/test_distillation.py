"""A student's training in several processes, and what its teacher is measured to be worth."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.cli import main
from builder.model_description import build_module
from tests.trainings import SETTINGS, TWO, Training, write_dataset, write_network
from trainer.weights_file import write_weights

NAMES = dict(enumerate(("circle", "triangle", "square", "cross", "star")))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("small") / "data")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def teacher(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the students' own network that see objects in many places."""
    description = yaml.safe_load(model.read_text()) | {"yaml_file": model.name}
    torch.manual_seed(1)
    module = build_module(description, classes=5, origin=model.name)
    for level in module.model[-1].cv3:  # type: ignore[index, union-attr]
        torch.nn.init.normal_(level[-1].weight, std=0.5)
        torch.nn.init.constant_(level[-1].bias, -1.0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    write_weights(
        path, module.state_dict(), description=description, names=NAMES, arguments={"imgsz": 64}, run={}, half=False
    )
    return path


def test_two_processes_learn_from_a_teacher_what_one_does(
    dataset: Path, model: Path, teacher: Path, tmp_path: Path
) -> None:
    training = Training(dataset, model)
    more = ("--teacher", str(teacher), "--distil-weight", "features=1", "--epochs", "1")
    training.finish(tmp_path / "one", *more)
    training.finish(tmp_path / "two", *more, *TWO)
    one, two = (list(csv.DictReader((tmp_path / name / "steps.csv").open())) for name in ("one", "two"))
    assert len(one) == len(two) == 6
    for mine, other in zip(one, two, strict=True):
        for name in (name for name in mine if name.endswith("_loss")):
            assert float(other[name]) == pytest.approx(float(mine[name]), rel=1e-4), (mine["step"], name)
    assert float(one[0]["distil_loss"]) > 1


def test_gain_of_a_teacher_is_told_and_finished_trainings_are_not_run_again(
    dataset: Path, model: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "distillation", "--teacher", str(teacher), "--seeds", "0", "--distil", "boxes=2,temperature=2",
        "--folder", str(tmp_path), "--json", str(tmp_path / "figures.json"),
        "--", "--data", str(dataset), "--model", str(model), *SETTINGS.split(), "--epochs", "1",
    ]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr()
    assert "seed 0: without a teacher" in said.err
    assert "epoch 1/1" in said.err
    report = json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["without a teacher", "boxes=2,temperature=2"]
    accuracy = [row["accuracy"][0] for row in report["rows"]]
    assert report["rows"][1]["gain"] == [pytest.approx(accuracy[1] - accuracy[0])]
    taught = json.loads((tmp_path / "seed-0/boxes=2,temperature=2/run.json").read_text())["arguments"]
    assert (taught["distil_weights"], taught["distil_temperature"], taught["seed"]) == ({"boxes": 2.0}, 2.0, 0)

    assert main(command) == 0
    again = capsys.readouterr()
    assert "epoch 1/1" not in again.err
    assert again.out == said.out
    assert main([*command, "--imgsz", "96"]) == 2
    assert "--imgsz 96: the run was begun with 64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("distil", "behind", "told"),
    [
        ("boxes=2", ("--seed", "3"), "--seed behind --"),
        ("boxes=2", ("--epochs", "many"), "argument --epochs: invalid int value"),
        ("boxes", (), "expected NAME=X"),
        ("knees=2", (), "for one of logits, boxes, features"),
    ],
)
def test_wrong_comparison_is_told_before_anything_is_trained(
    dataset: Path, model: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], distil: str,
    behind: tuple[str, ...], told: str,
) -> None:  # fmt: skip
    folder = tmp_path / "runs"
    request = ["distillation", "--teacher", str(teacher), "--distil", distil, "--folder", str(folder), "--"]
    assert main([*request, "--data", str(dataset), "--model", str(model), *behind]) == 2
    assert told in capsys.readouterr().err
    assert not folder.exists()


def test_teacher_that_is_not_there_is_told_before_anything_is_trained(
    dataset: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs"
    request = ["distillation", "--teacher", "nowhere/large.pt", "--folder", str(folder), "--"]
    assert main([*request, "--data", str(dataset), "--model", str(model), "--epochs", "1"]) != 0
    assert "no weights at nowhere/large.pt" in capsys.readouterr().err
    assert not folder.exists()
