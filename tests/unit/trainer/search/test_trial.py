"""One trial as a worker of Ray runs it, and what early stopping knows when a search goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.durable import locked
from tests.trainings import write_network
from trainer.run_folder import lock_of
from trainer.search.record import EarlyStopping, Search, State
from trainer.search.space import Dimension, Kind, Space
from trainer.search.trial import LEAVE, run_trial
from trainer.settings import TrainSettings


def request(run: Path, data: Path, model: Path) -> dict[int, Any]:
    run.parent.mkdir()
    settings = TrainSettings(data=data, run=run, model=str(model), epochs=1, batch=4, imgsz=64, threads=1)
    return {4: settings.to_json()}


def test_trial_that_fails_gives_its_reason(dataset: Path, tmp_path: Path) -> None:
    model = tmp_path / "broken.yaml"
    model.write_text(write_network(tmp_path).read_text().replace("Detect", "Dettect"))
    run = tmp_path / "trials/0004"
    ended = run_trial({"number": 4}, request(run, dataset, model))
    assert ended["ended"] == "failed"
    assert "broken.yaml" in ended["reason"]
    assert f"error: {ended['reason']}" in run.with_suffix(".log").read_text()
    assert [path.name for path in run.parent.iterdir()] == ["0004.log"]


def test_trial_that_comes_after_the_end_was_asked_for_does_not_begin(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "trials/0004"
    asked = request(run, dataset, write_network(tmp_path))
    (run.parent / LEAVE).touch()
    assert run_trial({"number": 4}, asked) == {"ended": "cut"}
    assert not run.exists()


def test_trial_whose_folder_a_former_one_still_has_has_not_failed(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.search.trial._FORMER_GONE_S", 0.1)
    run = tmp_path / "trials/0004"
    asked = request(run, dataset, write_network(tmp_path))
    # Ray Tune takes an error for a trial that has died, which --resume tries again.
    with locked(lock_of(run), 0), pytest.raises(TimeoutError):
        run_trial({"number": 4}, asked)


@pytest.mark.parametrize(("reached", "decision"), [(0.55, "STOP"), (0.95, "CONTINUE")])
def test_early_stopping_compares_with_trials_of_an_earlier_part(tmp_path: Path, reached: float, decision: str) -> None:
    from trainer.search.tuning import _scheduler

    search = Search(
        folder=tmp_path,
        space=Space((Dimension(name="mosaic", kind=Kind.UNIFORM, values=(0.0, 1.0)),)),
        settings=TrainSettings(data=tmp_path, run=tmp_path, epochs=9),
        early_stopping=EarlyStopping(first=1, reduction=3),
        data_hash="",
        trials=[],
    )
    search.plan(4)
    for trial, figure in zip(search.trials, (0.9, 0.8, 0.1), strict=False):
        trial.history, trial.state = {1: figure, 2: figure}, State.DONE
    asha, mine = _scheduler(search), SimpleNamespace(trial_id="mine")
    asha.on_trial_add(None, mine)
    assert asha.on_trial_result(None, mine, {"epoch": 1, "fitness": reached}) == decision
    # A training that is stopped after its last epoch leaves no run.json.
    assert asha.on_trial_result(None, mine, {"epoch": 9, "fitness": 0.0}) == "CONTINUE"
