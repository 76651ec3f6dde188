"""A training that goes on ends as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.trainer.conftest import Train, cut_back
from trainer.checkpoints.file import newest_valid, read_checkpoint

NOT_THE_RUN = {"seconds", "random"}


def state_of(run: Path) -> dict[str, Any]:
    found = newest_valid(run / "checkpoints")
    assert found
    return read_checkpoint(found.path)[0]


def differing(first: Any, second: Any, path: str = "") -> list[str]:
    """The places where two trees of values differ in a bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        return [each for k in first if k not in NOT_THE_RUN for each in differing(first[k], second[k], f"{path}/{k}")]
    if isinstance(first, list | tuple):
        assert len(first) == len(second)
        return [
            each for i, (a, b) in enumerate(zip(first, second, strict=True)) for each in differing(a, b, f"{path}/{i}")
        ]
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [path]


def checkpoints(run: Path) -> list[str]:
    return sorted(path.stem for path in (run / "checkpoints").glob("*.pt"))


@pytest.mark.parametrize("place", ["e0000-s00000001", "e0000-s00000006", "e0001-s00000006", "e0001-s00000010"])
def test_resumed_run_ends_in_the_same_bits(train: Train, whole_run: Path, tmp_path: Path, place: str) -> None:
    interrupted = cut_back(whole_run, tmp_path / "run", place)
    assert place in checkpoints(whole_run)

    assert train(interrupted, "--resume") == 0

    assert differing(state_of(whole_run), state_of(interrupted)) == []
    for name in ("results.csv", "steps.csv", "weights/best.pt", "weights/last.pt"):
        assert (interrupted / name).read_bytes() == (whole_run / name).read_bytes(), name
