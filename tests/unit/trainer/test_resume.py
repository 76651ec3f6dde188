"""A training that goes on ends as if it had never stopped."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.trainings import differing, state_of
from tests.unit.trainer.conftest import Train, interrupt_at


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
