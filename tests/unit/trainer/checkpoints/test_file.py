"""A checkpoint is whole, or it is not there."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest
import torch

from tests.unit.trainer.checkpoints.states import meta_of, state_of
from trainer.checkpoints.file import newest_valid, read_checkpoint, sidecar, sweep, write_checkpoint
from trainer.errors import CheckpointError


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Checkpoints of three epochs."""
    return [write_checkpoint(tmp_path, state_of(i), meta_of(i, 10 * i, 0.1 * i)) for i in range(3)]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    state, meta = state_of(7), meta_of(2, 480, 0.61)
    path = write_checkpoint(tmp_path / "checkpoints", state, meta)
    assert path.name == "e0002-s00000480.pt"
    read, read_meta = read_checkpoint(path)
    assert read_meta == meta
    assert torch.equal(read["model"]["weight"], state["model"]["weight"])
    assert read["rows"] == state["rows"]
    assert sorted(each.name for each in path.parent.iterdir()) == [sidecar(path).name, path.name]


def test_newest_that_verifies_is_found_and_the_others_are_told(three: list[Path]) -> None:
    three[2].write_bytes(three[2].read_bytes()[:-1])
    changed = bytearray(three[1].read_bytes())
    changed[len(changed) // 2] ^= 1
    three[1].write_bytes(changed)
    unfinished = three[2].with_name("e0009-s00000099.pt")
    unfinished.write_bytes(b"half")
    found = newest_valid(three[0].parent)
    assert found
    assert found.path == three[0]
    assert found.meta.fitness == 0.0
    reasons = dict(found.passed_over)
    assert list(reasons) == [unfinished, three[2], three[1]]
    assert "was not finished: there is no e0009-s00000099.json" in reasons[unfinished]
    size = json.loads(sidecar(three[2]).read_bytes())["bytes"]
    assert f"is cut short: expected {size} bytes, found {size - 1}" in reasons[three[2]]
    assert "is damaged" in reasons[three[1]]


def test_folder_without_checkpoints_has_none_and_one_of_damaged_ones_is_an_error(three: list[Path]) -> None:
    assert newest_valid(three[0].parent / "nowhere") is None
    for path in three:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds 3 checkpoint\(s\) and none that verifies"):
        newest_valid(three[0].parent)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda record: {**record, "format": 2}, "has the format 2, this program reads 1: resume with its release"),
        (lambda record: {**record, "meta": {**record["meta"], "epoch": 7}}, "has the sidecar of e0007"),
        (lambda record: {**record, "meta": {}}, "a sidecar that is not a checkpoint's"),
        (lambda record: [record], "has the format None"),
    ],
)
def test_sidecar_of_something_else_is_told(three: list[Path], change: object, told: str) -> None:
    record = json.loads(sidecar(three[2]).read_bytes())
    sidecar(three[2]).write_text(json.dumps(change(record)))  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint(three[2])
    found = newest_valid(three[0].parent)
    assert found
    assert found.path == three[1]


def test_pickle_that_would_run_something_is_not_read(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("run",)

    path = write_checkpoint(tmp_path, {"model": Runs()}, meta_of(0, 1))
    with pytest.raises(CheckpointError, match="cannot be read by this torch"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["the same", "another"])
def test_full_disk_leaves_the_last_good_one_and_nothing_else(three: list[Path], name: str) -> None:
    folder = three[0].parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    meta = meta_of(2, 20, 0.2) if name == "the same" else meta_of(3, 30)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file of more bytes than this cannot be written, as on a disk without room for it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(CheckpointError, match=f"{meta.name}.pt was not written: File too large"):
            write_checkpoint(folder, state_of(9, values=100_000), meta)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_killed_processes_have_left_is_swept(three: list[Path]) -> None:
    folder = three[0].parent
    mine = f".e0002-s00000020.pt.{os.getpid()}.tmp"  # of another container's process of this number
    for name in (mine, ".e0003-s00000030.pt.1.tmp", ".e0003-s00000030.json.1.tmp", "e0003-s00000030.pt"):
        (folder / name).write_bytes(b"half")
    (folder / "notes.pt").write_bytes(b"the user's")
    before = set(three) | {sidecar(path) for path in three} | {folder / "notes.pt"}
    sweep(folder)
    assert set(folder.iterdir()) == before
