"""Two processes learn what one with the same global batch does, whatever the head."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.equal_trainings import END_TO_END, TRAININGS
from tests.trainings import ROOT, write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], tuple[int, ...]]) -> Path:
    """``one`` and ``two`` hold every training of one process and of two."""
    folder = tmp_path_factory.mktemp("equal")
    data = write_dataset(folder / "data")
    for name, text in END_TO_END.items():
        (folder / f"{name}.yaml").write_text(text)
    ports = [str(port) for port in free_ports(len(TRAININGS))]
    command = [sys.executable, "-m", "tests.equal_trainings"]
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    subprocess.run([*command, str(folder / "one"), str(data), *ports], cwd=ROOT, env=alone, check=True)
    both = [
        subprocess.Popen(
            [*command, str(folder / "two"), str(data), *ports],
            cwd=ROOT,
            env={
                **alone, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [process.wait(timeout=240) for process in both] == [0, 0]
    return folder


# Random weights grow what rounding leaves sooner than trained ones.
@pytest.mark.parametrize(("name", "steps"), [(name, 10 if name in END_TO_END else 20) for name in TRAININGS])
def test_losses_of_two_processes_are_those_of_one(folder: Path, name: str, steps: int) -> None:
    one, two = (list(csv.DictReader((folder / which / name / "steps.csv").open())) for which in ("one", "two"))
    assert len(one) == len(two) >= steps
    for mine, other in zip(one[:steps], two[:steps], strict=True):
        for column in (column for column in mine if column.endswith("_loss")):
            assert float(other[column]) == pytest.approx(float(mine[column]), rel=1e-4, abs=1e-4), (
                mine["step"],
                column,
            )
