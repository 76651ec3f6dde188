"""A small data set, a small network, and a training of both in this process."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.cli import main

ROOT = Path(__file__).resolve().parents[3]
# Two levels and an eighth of YOLO11's width: a step of four 64-pixel images takes some 40 ms of one core.
NETWORK = """
nc: 5
scales:
  t: [0.33, 0.125, 256]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 2, C3k2, [256, False, 0.25]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 2, C3k2, [512, False, 0.25]]
  - [-1, 1, Conv, [512, 3, 2]]
  - [-1, 2, C3k2, [512, True]]
head:
  - [-1, 1, nn.Upsample, [None, 2, "nearest"]]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 2, C3k2, [256, False]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [[-1, 6], 1, Concat, [1]]
  - [-1, 2, C3k2, [512, False]]
  - [[9, 12], 1, Detect, [nc]]
"""
SETTINGS = (
    "--epochs 3 --batch 4 --imgsz 64 --optimizer AdamW --set nbs=8 --set close_mosaic=1 --threads 1 "
    "--workers-per-device 0"
)
Train = Callable[..., int]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data.yaml of 22 training and 6 validation images of the sample's generator, 96 pixels."""
    spec = importlib.util.spec_from_file_location("shapes_generate", ROOT / "examples/shapes/generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    sys.modules["shapes_generate"] = generate
    spec.loader.exec_module(generate)
    folder = tmp_path_factory.mktemp("shapes") / "data"
    generate.write_dataset(folder, {"train": 22, "val": 6}, 0, generate.Size(96, 96))
    return folder / "data.yaml"


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model description."""
    path = tmp_path_factory.mktemp("network") / "tiny.yaml"
    path.write_text(NETWORK)
    return path


@pytest.fixture(scope="session")
def train(dataset: Path, network: Path) -> Train:
    """``train(run, *more)``: a training on one thread; its exit code."""

    def run(folder: Path, *more: str, start: tuple[str, ...] | None = None) -> int:
        given = ("--model", str(network)) if start is None else start
        fixed = ("--data", str(dataset), *SETTINGS.split())
        return main(["train", "--run", str(folder), *fixed, *given, *more])

    return run


@pytest.fixture(scope="session")
def whole_run(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs of six steps, nothing interrupted, every checkpoint kept."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train(folder, "--save-steps", "1", "--keep-last", "99") == 0
    return folder


def cut_back(run: Path, folder: Path, checkpoint: str) -> Path:
    """A copy of a run as if it had died after ``checkpoint``."""
    shutil.copytree(run, folder)
    for path in (folder / "checkpoints").iterdir():
        if path.stem > checkpoint:
            path.unlink()
    (folder / "run.json").unlink()
    return folder
