"""A training that goes on ends as if it had never stopped."""

from __future__ import annotations

import multiprocessing
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.trainings import differing, state_of
from tests.unit.trainer.conftest import Train, interrupt_at, interrupt_validation
from trainer.checkpoints.file import read_checkpoint
from trainer.progress import Progress


@pytest.mark.parametrize(
    ("step", "place", "more"),
    [
        # In the warm-up; samples loaded by other processes are the same.
        (1, "e0000-s00000001", ("--workers-per-device", "2")),
        # All steps of an epoch are done, its validation is not.
        (6, "e0000-s00000006", ("--cache", "ram")),
        # Gradients of two steps are gathered for one of the optimizer's, which a signal waits for.
        (9, "e0001-s00000010", ()),
    ],
)
def test_interrupted_run_goes_on_to_the_same_bits(
    train: Train, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, place: str,
    more: tuple[str, ...],
) -> None:  # fmt: skip
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        assert train(run) == 128 + signal.SIGTERM
    assert max((run / "checkpoints").glob("*.pt")).stem == place

    assert train(run, "--resume", *more) == 0

    assert differing(state_of(whole_run), state_of(run)) == []
    for name in ("results.csv", "steps.csv", "weights/best.pt", "weights/last.pt"):
        assert (run / name).read_bytes() == (whole_run / name).read_bytes(), name


def test_signal_in_a_validation_is_heeded_there_and_the_validation_done_again(
    train: Train, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_validation(patch)
        assert train(run) == 128 + signal.SIGTERM
    assert max((run / "checkpoints").glob("*.pt")).stem == "e0000-s00000006"
    assert not (run / "results.csv").exists()

    assert train(run, "--resume") == 0
    assert differing(state_of(whole_run), state_of(run)) == []


def test_header_of_figures_comes_where_a_kill_has_left_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "steps.csv").touch()
    progress = Progress(tmp_path, print)
    progress.go_on_from(0, [])
    progress.step(1, {"box_loss": 0.5}, 0.1)
    assert (tmp_path / "steps.csv").read_text() == "step,box_loss,lr\n1,0.5,0.1\n"


def test_death_of_a_process_that_loads_data_is_told_in_a_line(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.loop import TrainingLoop

    record = TrainingLoop._record

    def recorded(training: TrainingLoop, number: int, within: int) -> None:
        record(training, number, within)
        if number == 2:
            (loader,) = multiprocessing.active_children()
            loader.kill()
            time.sleep(60)  # until torch hears of it

    monkeypatch.setattr(TrainingLoop, "_record", recorded)
    assert train(tmp_path / "run", "--workers-per-device", "1") == 1
    assert "error: a process that loads data has died" in capsys.readouterr().err


def test_frozen_stage_learns_nothing_and_the_next_one_does(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, stages = tmp_path / "run", ("--freeze", "backbone:0-5", "--freeze", "none@2", "--keep-last", "9")
    with monkeypatch.context() as patch:
        interrupt_at(2, patch)
        assert train(run, *stages) == 128 + signal.SIGTERM
    assert train(run, "--resume") == 0

    said = capsys.readouterr().out
    assert "epoch 1: frozen: backbone:0-5" in said
    assert "epoch 2: nothing is frozen" in said
    first, one_epoch, end = (
        read_checkpoint(run / "checkpoints" / f"{name}.pt")[0]["model"]
        for name in ("e0000-s00000002", "e0001-s00000006", "e0003-s00000018")
    )
    still = [key for key in first if int(key.split(".")[1]) <= 5]
    assert any("running_mean" in key for key in still)
    assert all(torch.equal(first[key], one_epoch[key]) for key in still)
    assert not torch.equal(first["model.6.cv1.conv.weight"], one_epoch["model.6.cv1.conv.weight"])
    assert not torch.equal(one_epoch["model.0.conv.weight"], end["model.0.conv.weight"])
    assert not torch.equal(one_epoch["model.0.bn.running_mean"], end["model.0.bn.running_mean"])
