"""A training that goes on ends as if it had never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainings import differing, state_of
from tests.unit.trainer.conftest import Train, cut_back


@pytest.mark.parametrize(
    ("place", "more"),
    [
        # In the warm-up; samples loaded by other processes are the same.
        ("e0000-s00000001", ("--workers-per-device", "2")),
        # All steps of an epoch are done, its validation is not.
        ("e0000-s00000006", ()),
        ("e0001-s00000006", ()),
        # Gradients of two steps are gathered for each of the optimizer's: this is not a whole number of them.
        ("e0001-s00000010", ("--cache", "ram")),
    ],
)
def test_resumed_run_ends_in_the_same_bits(
    train: Train, whole_run: Path, tmp_path: Path, place: str, more: tuple[str, ...]
) -> None:
    interrupted = cut_back(whole_run, tmp_path / "run", place)
    assert (interrupted / "checkpoints" / f"{place}.pt").exists()

    assert train(interrupted, "--resume", *more) == 0

    assert differing(state_of(whole_run), state_of(interrupted)) == []
    for name in ("results.csv", "steps.csv", "weights/best.pt", "weights/last.pt"):
        assert (interrupted / name).read_bytes() == (whole_run / name).read_bytes(), name
