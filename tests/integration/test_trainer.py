"""Trainings of several processes, and trainings that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.trainings import (
    TWO,
    Training,
    command_of,
    differing,
    kill,
    lives,
    state_of,
    steps_of,
    tree_of,
    wait_for_step,
)
from tests.waiting import eventually


@pytest.fixture(scope="module")
def one_process(training: Training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    training.finish(run)
    return run


def test_killed_at_any_moment_a_run_ends_in_the_same_bits(
    training: Training, one_process: Path, tmp_path: Path
) -> None:
    run, chance = tmp_path / "run", random.Random(11)
    for number in range(2):
        process = training.start(run, "--save-steps", "2")
        wait_for_step(process, run, 3 + 8 * number)
        time.sleep(chance.random() * 0.1)
        kill(process)
    training.finish(run, "--save-steps", "2")
    assert differing(state_of(one_process), state_of(run)) == []


def test_dead_worker_is_replaced_and_a_signal_saves(training: Training, two_processes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = training.start(run, *TWO, "--save-steps", "2", "--max-restarts", "1")
    wait_for_step(process, run, 3)
    workers = [pid for pid in tree_of(process.pid)[1:] if b"trainer" in command_of(pid)]
    os.kill(workers[-1], signal.SIGKILL)
    until_s = time.monotonic() + 120
    while json.loads((run / "settings.json").read_bytes())["parts"] < 2 and time.monotonic() < until_s:
        time.sleep(0.01)
    wait_for_step(process, run, steps_of(run) + 1)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "resumed from" in said
    assert "SIGTERM: left before step" in said
    assert "Traceback" not in said

    training.finish(run, *TWO)
    assert differing(state_of(two_processes), state_of(run)) == []


def test_processes_of_a_killed_launcher_leave(training: Training, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = training.start(run, *TWO, "--epochs", "30")
    wait_for_step(process, run, 3)
    workers = [pid for pid in tree_of(process.pid)[1:] if b"trainer" in command_of(pid)]
    process.kill()
    # They hold the pipe.
    said, _ = process.communicate(timeout=120)
    assert "SIGTERM: left before step" in said
    assert workers
    assert eventually(lambda: not any(map(lives, workers)))
    assert steps_of(run) < 180


def test_other_number_of_processes_goes_on_and_says_what_changes(training: Training, tmp_path: Path) -> None:
    run, longer = tmp_path / "run", ("--epochs", "6")
    process = training.start(run, *longer)
    wait_for_step(process, run, 1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, said

    said = training.finish(run, *TWO, *longer)
    assert "changed: 2 process(es), were 1" in said
    assert "exchanging gradients and batch statistics" in said
    assert steps_of(run) == 36


def test_process_without_any_validation_image_holds_nobody_up(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    # Six images in batches of five are one for the first process, one for the second, and none for the third.
    said = training.finish(tmp_path / "run", "--devices", "cpu,cpu,cpu", "--batch", "8", "--epochs", "1")
    assert "mAP50-95" in said
    # torch's cache of compiled code is there for the next run.
    assert [path for path in temporary.iterdir() if not path.name.startswith("torchinductor_")] == []
