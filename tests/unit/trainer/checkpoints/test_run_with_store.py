"""A run whose machine is lost goes on elsewhere, from its store alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.unit.trainer.conftest import Train
from trainer.cli import main

Lost = tuple[Path, Path]


@pytest.fixture(scope="module")
def lost(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Lost:
    """The store of a run whose machine is gone, sealed, with a checkpoint of every second step; and its key."""
    folder = tmp_path_factory.mktemp("lost")
    store, key = folder / "store", folder / "key"
    key.write_text("0f" * 32)
    stores = ("--store", f"file://{store}", "--store-key-file", str(key))
    assert train(folder / "run", "--save-steps", "2", "--keep-last", "99", *stores) == 0
    return store, key


def store_at(lost: Lost, folder: Path, last: str) -> tuple[str, ...]:
    """The arguments of a copy of the store in which ``last`` is the newest."""
    store = Path(shutil.copytree(lost[0], folder / "store"))
    for path in (store / "run").glob("*.json"):
        if path.stem > last:
            path.unlink()
    return "--store", f"file://{store}", "--store-key-file", str(lost[1])


def test_run_goes_on_from_its_store_and_ends_in_the_same_bits(
    train: Train, whole_run: Path, lost: Lost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_at(lost, tmp_path, "e0001-s00000010")
    fresh = tmp_path / "fresh" / "run"
    assert train(fresh, "--resume", *store) == 0
    said = capsys.readouterr().out
    assert f"brought back from {store[1]}" in said
    assert "resumed from e0001-s00000010" in said
    for name in ("results.csv", "weights/best.pt", "weights/last.pt"):
        assert (fresh / name).read_bytes() == (whole_run / name).read_bytes(), name

    assert train(tmp_path / "other" / "run", *store) == 2
    assert "holds checkpoints of a run 'run' already" in capsys.readouterr().err
    assert not (tmp_path / "other" / "run").exists()


def test_restored_run_knows_its_arguments(
    whole_run: Path, lost: Lost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_at(lost, tmp_path, "e0002-s00000016")
    fresh = tmp_path / "fresh" / "run"
    key = ("--key-file", str(lost[1]))
    assert main(["restore", "--from", store[1], "--run", "run", "--to", str(fresh), *key]) == 0
    assert main(["train", "--run", str(fresh), "--resume", *store]) == 0
    assert "brought back" not in capsys.readouterr().out
    for name in ("weights/best.pt", "weights/last.pt"):
        assert (fresh / name).read_bytes() == (whole_run / name).read_bytes(), name


@pytest.mark.parametrize(
    ("more", "code", "told"),
    [
        (("--store", "nothing://bucket"), 2, "expected an address such as s3://bucket/prefix"),
        (("--store", "file:///proc/nowhere"), 1, "the store file:///proc/nowhere failed"),
        (("--store", "file:///tmp", "--store-key-file", "/nowhere"), 2, "the key /nowhere cannot be read"),
    ],
)
def test_store_that_cannot_be_is_told_before_the_training(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], code: int, told: str
) -> None:
    assert train(tmp_path / "run", *more) == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
