"""Checkpoints are written beside the training, and the right ones stay."""

from __future__ import annotations

import errno
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.checkpoints.states import meta_of, state_of
from trainer.checkpoints.file import newest_valid, read_checkpoint, write_checkpoint
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.writer import CheckpointWriter

FITNESSES = [0.1, 0.5, 0.3, 0.5, 0.2, 0.4]


class Held(Mapping[str, Any]):
    """A state whose writing begins when it is let go."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __getitem__(self, key: str) -> Any:
        return self._state[key]

    def __len__(self) -> int:
        return len(self._state)

    def __iter__(self) -> Any:
        self.begun.set()
        assert self.go_on.wait(60)
        return iter(self._state)


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.pt"))


def test_newest_best_and_each_second_epoch_stay() -> None:
    metas = [meta_of(epoch, 10 * epoch, fitness) for epoch, fitness in enumerate(FITNESSES, 1)]
    assert Retention(last=2).kept(metas) == {metas[1].name, metas[4].name, metas[5].name}
    assert Retention(last=1, best=False).kept(metas) == {metas[5].name}
    assert Retention(last=1, best=False, every=2).kept(metas) == {metas[i].name for i in (1, 3, 5)}


def test_epoch_that_was_not_validated_is_kept_by_its_end() -> None:
    metas = [meta_of(0, 5), meta_of(1, 10), meta_of(1, 15), meta_of(2, 20), meta_of(2, 25), meta_of(3, 30)]
    assert Retention(last=1, every=2).kept(metas) == {"e0002-s00000020", "e0003-s00000030"}


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=12), st.integers(1, 4))
def test_newest_and_best_are_always_kept(fitnesses: list[float | None], last: int) -> None:
    metas = [meta_of(i, i, fitness) for i, fitness in enumerate(fitnesses)]
    kept = Retention(last=last).kept(metas)
    assert {meta.name for meta in metas[-last:]} <= kept
    assert len(kept) <= last + 1
    validated = [meta for meta in metas if meta.fitness is not None]
    if validated:
        best = max(meta.fitness or 0.0 for meta in validated)
        assert any(meta.name in kept and meta.fitness == best for meta in validated)


def test_writer_keeps_by_rule_over_the_parts_of_a_run(tmp_path: Path) -> None:
    metas = [meta_of(epoch, 10 * epoch, fitness) for epoch, fitness in enumerate(FITNESSES, 1)]
    for part in (metas[:3], metas[3:]):
        writer = CheckpointWriter(tmp_path, Retention(last=1))
        for meta in part:
            write_and_wait(writer, meta)
        assert writer.close()
        assert writer.failures == []
    assert names(tmp_path) == ["e0002-s00000020", "e0006-s00000060"]


def write_and_wait(writer: CheckpointWriter, meta: Any) -> None:
    """Nothing is dropped where each is let be written."""
    state = Held(state_of(meta.step))
    writer.submit(state, meta)
    assert state.begun.wait(60)
    state.go_on.set()


def test_newest_waits_and_older_ones_are_dropped_and_counted(tmp_path: Path) -> None:
    told: list[str] = []
    writer = CheckpointWriter(tmp_path, Retention(last=9), say=told.append)
    first = Held(state_of(0))
    writer.submit(first, meta_of(0, 1))
    assert first.begun.wait(60)
    for step in (2, 3, 4):
        # Returns although the first is still being written.
        writer.submit(state_of(step), meta_of(0, step))
    assert names(tmp_path) == []
    first.go_on.set()
    assert writer.close()
    assert names(tmp_path) == ["e0000-s00000001", "e0000-s00000004"]
    assert told == ["2 checkpoint(s) were due before the one before was written, and left out"]


def test_close_does_not_wait_longer_than_it_may(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, Retention())
    state = Held(state_of(0))
    writer.submit(state, meta_of(0, 1))
    assert not writer.close(timeout_s=0.01)
    assert "was not written within 0.01 s" in writer.failures[0]
    state.go_on.set()


def test_what_cannot_be_written_is_told_once_and_the_next_may_be(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.write_text("a file where the folder should be")
    told: list[str] = []
    writer = CheckpointWriter(folder, Retention(), say=told.append)
    for step in (1, 2, 3):
        write_failing(writer, step)
    folder.unlink()
    write_and_wait(writer, meta_of(0, 4))
    assert writer.close()
    assert len(writer.failures) == 3
    assert len(told) == 1
    assert "File exists" in told[0]
    assert told[0].endswith("The training goes on.")
    found = newest_valid(folder)
    assert found
    assert torch.equal(read_checkpoint(found.path)[0]["model"]["weight"], state_of(4)["model"]["weight"])


def test_writer_goes_on_where_nothing_can_be_said(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.write_text("a file where the folder should be")

    def say(line: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = CheckpointWriter(folder, Retention(), say=say)
    write_failing(writer, 1)
    folder.unlink()
    writer.submit(state_of(2), meta_of(0, 2))
    assert writer.close()
    assert names(folder) == ["e0000-s00000002"]


def write_failing(writer: CheckpointWriter, step: int) -> None:
    before = len(writer.failures)
    writer.submit(state_of(step), meta_of(0, step))
    for _ in range(6000):
        if len(writer.failures) > before:
            return
        threading.Event().wait(0.01)
    pytest.fail("nothing failed")


def test_damaged_future_of_a_run_does_not_push_out_what_is_written(tmp_path: Path) -> None:
    later = write_checkpoint(tmp_path, state_of(1), meta_of(5, 50, 0.9))
    later.write_bytes(b"damaged")
    writer = CheckpointWriter(tmp_path, Retention(last=1))
    write_and_wait(writer, meta_of(2, 20, 0.2))
    assert writer.close()
    found = newest_valid(tmp_path)
    assert found
    assert found.path.stem == "e0002-s00000020"
