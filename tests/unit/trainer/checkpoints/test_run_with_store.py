"""A run whose machine is lost goes on elsewhere, from its store alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builder.manifest import record_of
from builder.training_run import origin_of
from tests.unit.trainer.conftest import Train
from trainer import run
from trainer.checkpoints.finished import bring_back_finished, copy_finished
from trainer.checkpoints.remote import Remote
from trainer.cli import main
from trainer.distribution import Process
from trainer.errors import CheckpointError
from trainer.run_folder import stored_settings
from trainer.settings import merged

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


def store_at(lost: Lost, folder: Path, last: str) -> tuple[tuple[str, ...], str]:
    """The arguments of a copy of the store in which nothing is newer than ``last``, and what is the newest there.

    A checkpoint that is due while another is written or copied may be left out.
    """
    store = Path(shutil.copytree(lost[0], folder / "store"))
    (store / "run" / "finished.json").unlink()
    for path in (store / "run").glob("*.json"):
        if path.stem > last:
            path.unlink()
    newest = max(path.stem for path in (store / "run").glob("e*-s*.json"))
    return ("--store", f"file://{store}", "--store-key-file", str(lost[1])), newest


def test_run_goes_on_from_its_store_and_ends_in_the_same_bits(
    train: Train, whole_run: Path, lost: Lost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, newest = store_at(lost, tmp_path, "e0001-s00000010")
    fresh = tmp_path / "fresh" / "run"
    assert train(fresh, "--resume", *store) == 0
    said = capsys.readouterr().out
    assert f"brought back from {store[1]}" in said
    assert f"resumed from {newest}" in said
    for name in ("results.csv", "weights/best.pt", "weights/last.pt"):
        assert (fresh / name).read_bytes() == (whole_run / name).read_bytes(), name

    assert train(tmp_path / "other" / "run", *store) == 2
    assert "holds checkpoints of a run 'run' already" in capsys.readouterr().err
    assert not (tmp_path / "other" / "run").exists()


def test_restored_run_knows_its_arguments(
    whole_run: Path, lost: Lost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, _ = store_at(lost, tmp_path, "e0002-s00000016")
    fresh = tmp_path / "fresh" / "run"
    key = ("--key-file", str(lost[1]))
    assert main(["restore", "--from", store[1], "--run", "run", "--to", str(fresh), *key]) == 0
    assert main(["train", "--run", str(fresh), "--resume", *store]) == 0
    assert "brought back" not in capsys.readouterr().out
    for name in ("weights/best.pt", "weights/last.pt"):
        assert (fresh / name).read_bytes() == (whole_run / name).read_bytes(), name


def test_node_that_had_the_run_before_takes_what_its_store_has_of_another_node(
    train: Train, whole_run: Path, lost: Lost, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh" / "run"
    older, before = store_at(lost, tmp_path / "older", "e0000-s00000004")
    assert restored(lost, Path(older[1].removeprefix("file://")), fresh) == 0
    newer, newest = store_at(lost, tmp_path, "e0001-s00000010")
    assert before < newest
    begun = stored_settings(fresh)
    assert begun
    settings, _ = merged(begun, {"run": fresh, "resume": True, "stores": (newer[1],), "store_key_file": lost[1]})
    said: list[str] = []
    run.train(settings, say=said.append, process=Process(elsewhere=True))
    assert any(line.startswith(f"resumed from {newest}") for line in said), said
    assert (fresh / "weights/last.pt").read_bytes() == (whole_run / "weights/last.pt").read_bytes()


def restored(lost: Lost, store: Path, folder: Path) -> int:
    key = ("--key-file", str(lost[1]))
    return main(["restore", "--from", f"file://{store}", "--run", "run", "--to", str(folder), *key])


def test_finished_run_comes_back_with_its_weights_and_record(
    lost: Lost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh, here = tmp_path / "fresh" / "run", lost[0].parent / "run"
    assert restored(lost, lost[0], fresh) == 0
    assert "the run is finished: weights/best.pt, weights/last.pt, run.json" in capsys.readouterr().out
    for name in ("run.json", "weights/best.pt", "weights/last.pt"):
        assert (fresh / name).read_bytes() == (here / name).read_bytes(), name
    weights = fresh / "weights" / "best.pt"
    origin = origin_of(weights, record_of(weights).sha256, None)
    assert origin.training
    assert not any(b"best.pt" in path.read_bytes() for path in (lost[0] / "run").iterdir()), "they are sealed"

    (fresh / "run.json").write_text("my own")
    assert restored(lost, lost[0], fresh) == 0
    assert (fresh / "run.json").read_text() == "my own"


def test_damaged_weights_at_the_store_are_told_and_the_checkpoints_come_back(
    lost: Lost, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.checkpoints.restore.time.sleep", lambda seconds: None)
    store = Path(shutil.copytree(lost[0], tmp_path / "store"))
    (best,) = (store / "run").glob("best-*.pt.sealed")
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.write_bytes(content)
    fresh = tmp_path / "fresh" / "run"
    assert restored(lost, store, fresh) == 0
    said = capsys.readouterr().out
    assert "warning: run.json and the weights were not brought back: run/weights/best.pt was changed" in said
    assert "go on: python -m trainer train" in said
    assert not (fresh / "run.json").exists()
    assert list((fresh / "checkpoints").glob("*.pt"))


@pytest.mark.parametrize("path", ["../outside.pt", "/etc/passwd", "weights/../../x.pt"])
def test_store_names_no_file_outside_the_run(tmp_path: Path, path: str) -> None:
    remote = Remote(f"file://{tmp_path / 'store'}", "run")
    each = {"path": path, "object": f"best-{'0' * 16}.pt", "bytes": 1, "sha256": "0" * 64}
    remote.write("finished.json", json.dumps({"format": 1, "files": [each]}).encode())
    with pytest.raises(CheckpointError, match="names no file of a run"):
        bring_back_finished(remote, tmp_path / "run", key=None, say=print)


def test_store_that_fails_at_the_end_costs_the_copy_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.checkpoints.restore.time.sleep", lambda seconds: None)
    run = tmp_path / "run"
    (run / "weights").mkdir(parents=True)
    (run / "weights" / "best.pt").write_bytes(b"weights")
    (run / "run.json").write_text("{}")
    (tmp_path / "file").write_text("no folder")
    there, told = Remote(f"file://{tmp_path / 'store'}", "run"), []
    copy_finished([Remote(f"file://{tmp_path / 'file'}", "run"), there], run, key=None, say=told.append)
    assert told[-1].startswith(f"warning: file://{tmp_path / 'file'} has not got run.json and the weights")
    assert bring_back_finished(there, tmp_path / "back", key=None, say=print)
    assert (tmp_path / "back" / "weights" / "best.pt").read_bytes() == b"weights"


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
