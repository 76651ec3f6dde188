"""What a finished run leaves, and what stops one from beginning."""

from __future__ import annotations

import csv
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch

from builder.durable import locked
from builder.manifest import record_of
from builder.training_run import origin_of, training_line
from builder.weights import load_network
from tests.unit.trainer.conftest import Train
from trainer.checkpoints.file import newest_valid, read_checkpoint
from trainer.run_folder import lock_of


def before_the_end(whole: Path, folder: Path) -> Path:
    """A copy of a run as if it had died in its last epoch."""
    shutil.copytree(whole, folder)
    (folder / "run.json").unlink()
    for path in (folder / "checkpoints").glob("e0003-*"):
        path.unlink()
    return folder


def test_builder_takes_the_best_weights_as_they_are(whole_run: Path) -> None:
    network = load_network(whole_run / "weights" / "best.pt")
    assert network.names == ("circle", "triangle", "square", "cross", "star")
    assert network.trained_imgsz == (64, 64)
    assert not network.keys
    found = newest_valid(whole_run / "checkpoints")
    assert found
    ema = read_checkpoint(found.path)[0]["ema"]
    last = load_network(whole_run / "weights" / "last.pt").module.state_dict()
    assert all(torch.equal(last[key], ema[key]) for key in ema)


def test_run_record_leads_back(whole_run: Path) -> None:
    text = (whole_run / "run.json").read_text()
    record = json.loads(text)
    assert record["schema"] == "run/1"
    assert record["data"]["train"] == 22
    assert record["arguments"]["epochs"] == 3
    assert record["epochs"] == 3
    assert record["steps"] == 18
    assert record["parts"] == 1
    best = record_of(whole_run / "weights" / "best.pt")
    assert record["weights"]["best.pt"] == {"bytes": best.size_bytes, "sha256": best.sha256}
    assert len(record["checkpoints"]) == len(list((whole_run / "checkpoints").glob("*.pt")))
    assert str(whole_run.parent) not in text


def test_builder_takes_up_the_record_of_the_weights(whole_run: Path) -> None:
    path = whole_run / "weights" / "best.pt"
    training = origin_of(path, record_of(path).sha256, None).training
    assert training
    record = json.loads((whole_run / "run.json").read_text())
    assert training["data"]["hash"] == record["data"]["hash"]
    assert training["best"] == record["best"]
    assert training["checkpoints"] == record["checkpoints"]
    assert training_line(training).startswith("trained in the run run on the data ")


def test_figures_and_curves_are_there(whole_run: Path) -> None:
    rows = list(csv.DictReader((whole_run / "results.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"train/box_loss", "val/box_loss", "metrics/mAP50-95(B)", "lr/pg0"} <= rows[0].keys()
    assert len((whole_run / "steps.csv").read_text().splitlines()) == 1 + 18
    assert (whole_run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_damaged_checkpoint_is_passed_over(
    train: Train, whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = before_the_end(whole_run, tmp_path / "run")
    newest = sorted((run / "checkpoints").glob("*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:999])
    newest.with_name("e0009-s00000099.pt").write_bytes(b"half")
    assert train(run, "--resume") == 0
    said = capsys.readouterr().out
    assert "passed over e0009-s00000099.pt" in said
    assert f"passed over {newest.name}" in said
    assert "cut short" in said
    assert (run / "weights/last.pt").read_bytes() == (whole_run / "weights/last.pt").read_bytes()


def test_full_disk_costs_a_checkpoint_and_not_the_last_good_one(
    train: Train, whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = before_the_end(whole_run, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file of more bytes than this cannot be written, as on a disk without room for it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        code = train(run, "--resume", "--keep-last", "999")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    captured = capsys.readouterr()
    assert code == 1
    assert "could not be written: make room and --resume" in captured.err
    assert not (run / "run.json").exists()
    assert "was not written: File too large" in captured.out
    assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before

    assert train(run, "--resume") == 0
    assert (run / "weights/last.pt").read_bytes() == (whole_run / "weights/last.pt").read_bytes()


def test_run_whose_last_checkpoints_could_not_be_written_says_so_at_its_end(
    train: Train, whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = before_the_end(whole_run, tmp_path / "run")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    weights = (whole_run / "weights/last.pt").stat().st_size
    checkpoint = min(path.stat().st_size for path in (whole_run / "checkpoints").glob("*.pt"))
    assert weights < checkpoint
    resource.setrlimit(resource.RLIMIT_FSIZE, ((weights + checkpoint) // 2, hard))
    try:
        code = train(run, "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 0
    assert "the newest checkpoint is of epoch 2, the training came to epoch 3" in capsys.readouterr().out
    assert (run / "run.json").exists()


def test_one_training_at_a_time_has_a_runs_folder(
    train: Train, whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, more in ((whole_run, ("--resume",)), (tmp_path / "run", ())):
        with locked(lock_of(run), 0):
            assert train(run, *more) == 2
        assert f"another training runs in {run}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_folder_that_holds_no_run_is_told_from_one_that_does(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "half" / "weights").mkdir(parents=True)
    assert train(tmp_path / "half") == 2
    assert "it holds no run; remove what is in it" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert train(tmp_path / "file") == 2
    assert "is a file" in capsys.readouterr().err


def test_run_goes_on_only_as_it_was_begun(
    train: Train, whole_run: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(whole_run) == 2
    assert "is not empty" in capsys.readouterr().err
    assert train(whole_run, "--resume", "--lr0", "0.5") == 2
    assert "--lr0 0.5: the run was begun with" in capsys.readouterr().err
    other = tmp_path / "data"
    shutil.copytree(dataset.parent, other)
    label = next((other / "labels/train").glob("*.txt"))
    label.write_text("0 0.5 0.5 0.2 0.2\n")
    assert train(whole_run, "--resume", "--data", str(other / "data.yaml")) == 1
    assert "are not those" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--devices", "0"), "there is no GPU"),
        (("--devices", "tpu"), "expected cpu"),
        (("--imgsz", "65"), "a multiple of 32"),
        (("--precision", "fp16"), "trains on GPUs"),
        (("--set", "mosiac=1"), "expected NAME=VALUE"),
        (("--freeze", "backbone:0-99"), "the backbone has the layers"),
        (("--data", "/nowhere/data.yaml"), "expected a data.yaml"),
        (("--scale-lr", "linear", "--optimizer", "auto"), "--scale-lr goes with --optimizer"),
        (("--batch", "23"), "the data have 22 training images"),
        (("--lr0", "1e30"), "--lr0: expected a value from 0 to 1, got 1e+30"),
        (("--set", "mosaic=5"), "--set mosaic: expected a value from 0 to 1, got 5"),
        (("--set", "box=nan"), "--set box: expected a finite number, got nan"),
        (("--set", "nbs=0"), "--set nbs: expected a whole number of 1 or more"),
        (("--set", "close_mosaic=-1"), "--set close_mosaic: expected a whole number of 0 or more, got -1"),
        (("--seed", "99999999999999999999"), "--seed: expected a whole number of 4294967295 or less"),
        (("--threads", "100000"), "--threads: expected a whole number of 1024 or less"),
        (("--store-key-file", "/nowhere"), "--store-key-file goes with --store"),
    ],
)
def test_wrong_request_is_told_and_leaves_nothing(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], told: str
) -> None:
    if told == "there is no GPU" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert train(tmp_path / "run", *more) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_damaged_image_is_named(
    train: Train, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "data"
    shutil.copytree(dataset.parent, other, ignore=shutil.ignore_patterns("*.cache"))
    image = sorted((other / "images/train").iterdir())[3]
    image.write_bytes(image.read_bytes()[:200])
    assert train(tmp_path / "run", "--data", str(other / "data.yaml")) == 2
    assert f"such as {image}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
