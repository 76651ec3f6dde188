"""Trainings as processes of their own, and a run that is killed at random moments.

python -m tests.trainings --kills 20 [--seed 0] [--processes 2]     ends with 0 where each kill met a run that
was alive and the bits at the end are those of a whole run
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoints.file import newest_valid, read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
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
TWO = ("--devices", "cpu,cpu")
_LONGER_S = 1800
"""What a run that outlives twenty kills may take."""
_NOT_THE_RUN = frozenset({"seconds", "random"})


def write_dataset(folder: Path) -> Path:
    """The data.yaml of 22 training and 6 validation images of the sample's generator, 96 pixels."""
    spec = importlib.util.spec_from_file_location("shapes_generate", ROOT / "examples/shapes/generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    sys.modules["shapes_generate"] = generate
    spec.loader.exec_module(generate)
    generate.write_dataset(folder, {"train": 22, "val": 6}, 0, generate.Size(96, 96))
    return folder / "data.yaml"


def write_network(folder: Path) -> Path:
    """A model description."""
    path = folder / "tiny.yaml"
    path.write_text(NETWORK)
    return path


class Training:
    """``python -m trainer train`` on the small data set, as a process of its own."""

    def __init__(self, data: Path, model: Path) -> None:
        """Take the data.yaml and the model description."""
        self._fixed = ("--data", str(data), "--model", str(model), *SETTINGS.split())

    def start(self, run: Path, *more: str) -> subprocess.Popen[str]:
        """Begin, or go on where there is a run."""
        resume = ("--resume",) if run.exists() else ()
        return subprocess.Popen(
            [sys.executable, "-m", "trainer", "train", "--run", str(run), *self._fixed, *more, *resume],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, run: Path, *more: str, within_s: float = 180) -> str:
        """Train to the end; what was said."""
        process = self.start(run, *more)
        said, _ = process.communicate(timeout=within_s)
        assert process.returncode == 0, said
        return said


def steps_of(run: Path) -> int:
    """How many steps a run has written down."""
    path = run / "steps.csv"
    return max(path.read_text().count("\n") - 1, 0) if path.exists() else 0


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Until a run has come to a step, or ended."""
    until_s = time.monotonic() + 120
    while steps_of(run) < step and process.poll() is None and time.monotonic() < until_s:
        time.sleep(0.005)


def kill(process: subprocess.Popen[str]) -> str:
    """End a training, its workers and what they have started by SIGKILL; what was said."""
    for pid in reversed(tree_of(process.pid)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return process.communicate()[0]


def tree_of(pid: int) -> list[int]:
    """A process and all that it and they have started, as far as they have not ended meanwhile."""
    tree = [pid]
    for each in tree:
        with contextlib.suppress(OSError):
            tree += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return tree


def command_of(pid: int) -> bytes:
    """The command line of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def lives(pid: int) -> bool:
    """Whether a process has not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def state_of(run: Path) -> dict[str, Any]:
    """The state in a run's newest checkpoint."""
    found = newest_valid(run / "checkpoints")
    assert found
    return read_checkpoint(found.path)[0]


def differing(first: Any, second: Any, path: str = "") -> list[str]:
    """The places where two states differ in a bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        keys = [key for key in first if key not in _NOT_THE_RUN]
        return [each for key in keys for each in differing(first[key], second[key], f"{path}/{key}")]
    if isinstance(first, list | tuple):
        assert len(first) == len(second)
        pairs = enumerate(zip(first, second, strict=True))
        return [each for place, (a, b) in pairs for each in differing(a, b, f"{path}/{place}")]
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [path]


def main() -> int:
    """Kill a run again and again; 0 where it ends as one that was left alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    arguments = parser.parse_args()
    # A kill lets a run come three steps further at most, of six an epoch: it is alive when the last one comes.
    longer = ("--epochs", str(max(arguments.kills, 3)))
    chance, more = random.Random(arguments.seed), (*longer, *(TWO if arguments.processes == 2 else ()))
    landed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training = Training(write_dataset(folder / "data"), write_network(folder))
        training.finish(folder / "whole" / "run", *more, within_s=_LONGER_S)
        run = folder / "killed" / "run"
        for number in range(1, arguments.kills + 1):
            process = training.start(run, *more, "--save-steps", "2")
            # Anywhere: within the start, a step, a save or a validation.
            if chance.random() < 0.8:
                wait_for_step(process, run, steps_of(run) + chance.choice((-3, 1, 1, 2)))
            time.sleep(chance.random() * 0.4)
            alive = process.poll() is None
            said = kill(process)
            landed += alive
            print(f"kill {number}: at step {steps_of(run)}" + ("" if alive else f", it had ended: {said}"), flush=True)
        training.finish(run, *more, "--save-steps", "2", within_s=_LONGER_S)
        differences = differing(state_of(folder / "whole" / "run"), state_of(run))
    print(f"{landed} of {arguments.kills} kills met a run that was alive")
    print("the bits are those of the whole run" if not differences else f"they differ: {differences[:5]}")
    return int(bool(differences) or landed < arguments.kills)


if __name__ == "__main__":
    sys.exit(main())
