"""What a run's folder keeps, and who writes there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from builder.errors import SpecError
from trainer.detection import _overrides
from trainer.distribution import Process
from trainer.run_folder import SETTINGS, nothing_left_behind
from trainer.settings import TrainSettings


def fail_in(folder: Path, *written: str) -> None:
    """A set-up that ends by an error after it has written some files."""

    def set_up() -> None:
        folder.mkdir(exist_ok=True)
        for name in written:
            (folder / name).touch()
        raise SpecError("its data are wrong")

    with pytest.raises(SpecError), nothing_left_behind(folder):
        set_up()


def test_a_folder_without_a_begun_run_is_gone(tmp_path: Path) -> None:
    fail_in(tmp_path / "run", "args.yaml")
    assert not (tmp_path / "run").exists()


def test_workers_that_end_without_an_error_here_leave_no_folder_either(tmp_path: Path) -> None:
    with nothing_left_behind(tmp_path / "run"):
        (tmp_path / "run").mkdir()
    assert not (tmp_path / "run").exists()


def test_a_begun_run_stays(tmp_path: Path) -> None:
    fail_in(tmp_path / "run", SETTINGS, "results.csv")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["results.csv", SETTINGS]


def test_what_somebody_else_has_put_there_stays(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    fail_in(tmp_path / "run", "args.yaml")
    assert (tmp_path / "run" / "notes.txt").exists()


def test_ultralytics_takes_results_away_from_the_main_process_alone(tmp_path: Path) -> None:
    settings = TrainSettings(data=tmp_path / "data.yaml", run=tmp_path / "run", model="yolo11n.yaml")
    folders = [
        Path(_overrides(settings, SimpleNamespace(process=Process(rank=rank, world=2), device=torch.device("cpu")),
                        nms_free=False)["save_dir"])  # type: ignore[arg-type]
        for rank in range(2)
    ]  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.csv").touch()
    assert [(folder / "results.csv").exists() for folder in folders] == [True, False]
