"""Requests for a search that are refused before anything is started."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.trainings import write_network
from trainer.cli import main, parser
from trainer.search.record import EarlyStopping, Room, Search
from trainer.search.space import Dimension, Kind, Space
from trainer.search_command import _share, search_of
from trainer.settings import TrainSettings

SAMPLE = Path("examples/shapes/shapes.pt")


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text("mosaic: {uniform: [0, 1]}\n")
    return path


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--trials", "0"), "--trials: expected a whole number of 1 or more"),
        (("--devices", "cpu,cpu"), "--devices: a search takes none: --gpus-per-trial"),
        (("--store", "s3://bucket"), "--store: a search takes none"),
        (("--num-workers", "2"), "--num-workers: a search takes none"),
        (("--lr0", "0.1"), "--lr0 goes with --optimizer"),
        (("--imgsz", "65"), "a multiple of 32"),
        (("--reduction", "1"), "--reduction of 2 or more, got 1 and 1"),
        (("--first-rung", "2", "--early-stopping", "none"), "leave out --early-stopping none"),
        (("--trials-at-once", "0"), "--trials-at-once: expected a whole number of 1 or more"),
        (("--gpus-per-trial", "1.5"), "--gpus-per-trial: expected 0, 1 or a part of one"),
        (("--data", "/nowhere/data.yaml"), "expected a data.yaml"),
        (("--ray", "nowhere"), "--ray nowhere: expected local"),
        (("--resume",), "holds no search to go on with"),
    ],
)
def test_wrong_request_is_told_and_leaves_nothing(
    dataset: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], told: str
) -> None:
    run = tmp_path / "search"
    fixed = ("--data", str(dataset), "--model", "yolo11n.yaml", "--epochs", "3", "--trials", "2")
    assert main(["search", "--run", str(run), "--space", str(space), *fixed, *more]) == 2
    assert told in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.parametrize("flag", ["--model", "--weights", "--teacher"])
def test_a_network_that_is_not_there_is_told_before_a_trial_is_begun(
    dataset: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    run, absent = tmp_path / "search", tmp_path / "absent"
    fixed = ("--data", str(dataset), "--epochs", "3", "--trials", "2", "--model", "yolo11n.yaml")
    assert main(["search", "--run", str(run), "--space", str(space), *fixed, flag, str(absent)]) == 1
    said = capsys.readouterr()
    assert str(absent) in said.err
    assert len(said.err.splitlines()) == 1
    assert said.out == ""
    assert not run.exists()


def test_a_searched_network_that_is_not_there_is_told_too(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, run = tmp_path / "space.yaml", tmp_path / "search"
    space.write_text("model: {choice: [yolo11n.yaml, yolo11nn.yaml]}\n")
    fixed = ("--data", str(dataset), "--epochs", "3", "--trials", "8")
    assert main(["search", "--run", str(run), "--space", str(space), *fixed]) == 1
    assert "yolo11nn.yaml" in capsys.readouterr().err
    assert not run.exists()


def test_a_teacher_that_does_not_fit_is_told_before_a_trial_is_begun(
    dataset: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, student = tmp_path / "search", write_network(tmp_path)
    fixed = ("--data", str(dataset), "--epochs", "3", "--trials", "2", "--model", str(student))
    assert main(["search", "--run", str(run), "--space", str(space), *fixed, "--teacher", str(SAMPLE)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "at the strides 8, 16, 32, the student at 8, 16" in line
    assert not run.exists()


def test_what_is_searched_goes_before_the_command_line_and_is_told(
    dataset: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model", "yolo11n.yaml", "--set", "mosaic=1", "--set", "box=7", "--trials", "2", "--space", str(space))
    search = search_of(
        parser().parse_args(["search", "--run", str(tmp_path / "search"), "--data", str(dataset), *words])
    )
    assert capsys.readouterr().out == "mosaic is searched: what the command line gives it is not used\n"
    trial = search.trials[1]
    assert search.settings_of(trial).hyperparameters == {"mosaic": trial.values["mosaic"], "box": 7.0}


def test_search_goes_on_only_as_it_was_begun(
    dataset: Path, tmp_path: Path, space: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = Search(
        folder=tmp_path / "search",
        space=Space((Dimension(name="mosaic", kind=Kind.CHOICE, values=(0.0, 1.0)),)),
        settings=TrainSettings(data=dataset, run=tmp_path / "search", model="yolo11n.yaml", epochs=3),
        early_stopping=EarlyStopping(first=1, reduction=3),
        data_hash="of other data",
        trials=[],
    )
    search.plan(4)
    search.write()
    before = (search.folder / "search.json").read_bytes()
    for more, told in (
        (("--epochs", "5"), "--epochs 5: the search was begun with 3"),
        (("--space", str(space)), "is not that of the search"),
        (("--reduction", "4"), "early stopping was begun with other numbers"),
        (("--trials", "3"), "--trials: expected a whole number of 4 or more"),
        ((), "are not those that the search was begun with"),
    ):
        assert main(["search", "--run", str(search.folder), "--resume", *more]) == 2
        assert told in capsys.readouterr().err
    assert main(["search", "--run", str(search.folder), "--space", str(space), "--trials", "2"]) == 2
    assert "is not empty: go on with it by --resume" in capsys.readouterr().err
    assert (search.folder / "search.json").read_bytes() == before


@pytest.mark.parametrize(
    ("at_once", "cpus", "gpus", "trials", "expected"),
    [
        (None, None, 0.0, 20, (16, 1)),
        (None, None, 0.0, 4, (4, 4)),
        (None, None, 0.0, 1, (1, 8)),
        (3, None, 0.0, 20, (3, 5)),
        (None, 4, 0.0, 20, (4, 4)),
        (32, None, 0.0, 40, (32, 1)),
        (None, None, 1.0, 20, (2, 8)),
        (None, None, 0.5, 20, (4, 4)),
    ],
)
def test_two_machines_are_shared_out(
    at_once: int | None, cpus: int | None, gpus: float, trials: int, expected: tuple[int, int]
) -> None:
    arguments = argparse.Namespace(trials_at_once=at_once, cpus_per_trial=cpus, gpus_per_trial=gpus)
    share = _share(arguments, Room(cpus=16, cpus_of_one=8, gpus=2), trials)
    assert (share.at_once, share.cpus) == expected
