"""What is kept of a search, and what it is told by."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from builder.errors import SpecError
from trainer.cli import parser
from trainer.search.record import FILE, EarlyStopping, Search, State, read_search
from trainer.search.report import draw, parallel_coordinates, table
from trainer.search.space import Dimension, Kind, Space
from trainer.search.train_arguments import train_arguments
from trainer.settings import TrainSettings
from trainer.train_command import settings_of


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """Five trials: two to the end, one stopped early, one that failed, one that has not begun."""
    settings = TrainSettings(
        data=tmp_path / "data.yaml", run=tmp_path, model="yolo11n.yaml", epochs=9, hyperparameters={"box": 7.0}
    )
    space = Space(
        (
            Dimension(name="lr0", kind=Kind.LOGUNIFORM, values=(1e-4, 1e-2)),
            Dimension(name="optimizer", kind=Kind.CHOICE, values=("SGD", "AdamW")),
            Dimension(name="mosaic", kind=Kind.UNIFORM, values=(0.0, 1.0)),
        )
    )
    search = Search(
        folder=tmp_path, space=space, settings=settings, early_stopping=EarlyStopping(first=1, reduction=3),
        data_hash="abc", trials=[],
    )  # fmt: skip
    search.plan(5)
    histories = ({1: 0.1, 9: 0.4}, {1: 0.3, 8: 0.71, 9: 0.7}, {1: 0.05}, {1: 0.9}, {})
    states = (State.DONE, State.DONE, State.STOPPED, State.FAILED, State.WAITING)
    for trial, history, state in zip(search.trials, histories, states, strict=True):
        trial.history, trial.state = dict(history), state
    search.trials[3].reason = "the loss of step 7 is no finite number"
    return search


def test_a_search_goes_on_from_its_record(search: Search) -> None:
    search.write()
    again = read_search(search.folder)
    assert again == search
    again.plan(7)
    assert again.trials[:5] == search.trials
    assert [trial.state.over for trial in again.trials] == [True, True, True, True, False, False, False]


def test_best_is_the_highest_of_those_that_ended_as_they_should(search: Search) -> None:
    search.write()
    best = json.loads((search.folder / FILE).read_bytes())["best"]
    assert (best["trial"], best["mAP50-95"]) == (2, 0.71)
    assert best["weights"] == "trials/0002/weights/best.pt"
    assert best["command"].startswith("python -m trainer train --run ")


def test_command_of_the_best_trains_with_its_settings(search: Search) -> None:
    best = search.best
    assert best
    asked, _ = settings_of(parser().parse_args(search.command(best)))
    wanted = search.settings_of(best)
    assert asked.run == search.folder / "best"
    assert asked.lr0 == best.values["lr0"]
    assert asked.to_json() | {"run": ""} == wanted.to_json() | {"run": ""}


def test_arguments_give_all_settings_that_are_not_as_by_default(tmp_path: Path) -> None:
    settings = TrainSettings(
        data=tmp_path / "data.yaml", run=tmp_path / "run", weights=tmp_path / "a b.pt", allow_partial=True, batch=3,
        freeze=("backbone", "none@2"), optimizer="SGD", lr0=0.25, teacher=tmp_path / "t.pt", save_minutes=1.5,
        distil_weights={"boxes": 0.5}, hyperparameters={"cos_lr": True, "nbs": 8, "mosaic": 0.5},
        stores=("file:///a", "s3://b/c"), channels_last=True,
    )  # fmt: skip
    words = ["train", "--run", str(tmp_path / "run"), *train_arguments(settings)]
    assert settings_of(parser().parse_args(words))[0] == settings


def test_table_has_the_best_first_and_a_file_has_all(search: Search) -> None:
    lines = table(search).splitlines()
    assert lines[0].split() == ["trial", "lr0", "optimizer", "mosaic", "epochs", "mAP50-95", "state"]
    assert [line.split()[0] for line in lines[1:]] == ["4", "2", "1", "3", "5"]
    assert lines[2].endswith("9    0.7100  done")
    search.write_table()
    rows = list(csv.DictReader((search.folder / "trials.csv").open()))
    assert rows[1]["best_epoch"] == "8"
    assert float(rows[1]["lr0"]) == search.trials[1].values["lr0"]
    assert rows[3]["reason"] == "the loss of step 7 is no finite number"


def test_picture_has_a_line_for_each_trial_with_a_figure(search: Search) -> None:
    axes = parallel_coordinates(search, [trial for trial in search.trials if trial.best]).axes[0]
    assert len(axes.lines) == 4
    best = axes.lines[1]
    assert best.get_linewidth() > max(line.get_linewidth() for line in axes.lines if line is not best)
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-", "--", "--"]
    rate, optimizer, mosaic, reached = best.get_ydata()
    values = search.trials[1].values
    assert 1e-4 * 100**rate == pytest.approx(values["lr0"])
    assert optimizer == pytest.approx(0.25 if values["optimizer"] == "SGD" else 0.75, abs=0.1)
    assert mosaic == values["mosaic"]
    # From the lowest figure, 0.05, to the highest, 0.9.
    assert reached == pytest.approx((0.71 - 0.05) / 0.85)
    draw(search, search.folder / "search.png")
    assert (search.folder / "search.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is damaged"),
        ('{"schema": "search/9"}', "another release wrote it"),
        ('{"schema": "search/1"}', "is damaged"),
        ("[]", "is damaged"),
    ],
)
def test_damaged_record_is_told(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(SpecError, match=told):
        read_search(tmp_path)


def test_settings_that_do_not_go_together_are_told_with_their_trial(search: Search) -> None:
    search.trials[2].values = {"lr0": 0.1}
    with pytest.raises(SpecError, match=r"trial 3 \(lr0 0\.1\): --lr0 goes with --optimizer"):
        search.settings_of(search.trials[2])
