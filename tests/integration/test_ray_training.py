"""The same training in workers of Ray, which start anew where one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.trainings import Training, command_of, differing, lives, state_of, steps_of, tree_of, wait_for_step

RAY = ("--ray", "local", "--num-workers", "2")
_PATIENCE_S = 300.0
"""For what takes half a minute on a machine that has nothing else to do."""


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that train."""
    return [pid for pid in tree_of(process.pid) if b"RayTrainWorker" in command_of(pid)]


def wait_for_more(process: subprocess.Popen[str], run: Path, step: int) -> None:
    """Until a run has come to a step, or ended."""
    until_s = time.monotonic() + _PATIENCE_S
    while steps_of(run) < step and process.poll() is None and time.monotonic() < until_s:
        wait_for_step(process, run, step)


def newest_saved(process: subprocess.Popen[str], run: Path) -> int:
    """The step of the newest checkpoint that is written whole; waits for the first."""
    until_s = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < until_s:
        if steps := [int(path.stem.rpartition("-s")[2]) for path in (run / "checkpoints").glob("e*-s*.json")]:
            return max(steps)
        time.sleep(0.01)
    raise AssertionError("no checkpoint was written")


def test_workers_of_ray_die_leave_and_end_in_the_bits_of_torchrun(
    training: Training, two_processes: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = training.start(run, *RAY, "--save-steps", "2", "--max-restarts", "1")
    wait_for_more(process, run, 3)
    saved = newest_saved(process, run)
    os.kill(workers_of(process)[-1], signal.SIGKILL)
    died_at = steps_of(run)
    wait_for_more(process, run, died_at + 2)
    everything = tree_of(process.pid)
    # A fast machine would be done before the command has passed the signal on.
    working = workers_of(process)
    for pid in working:
        os.kill(pid, signal.SIGSTOP)
    process.terminate()
    time.sleep(2)
    for pid in working:
        os.kill(pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 128 + signal.SIGTERM, said
    lines = said.splitlines()
    anew = lines.index("all workers are started anew: restart 1 of at most 1")
    resumed = next(line for line in lines[anew:] if line.startswith("resumed from"))
    done = int(resumed.partition(": ")[2].split()[0])
    assert saved <= done <= died_at + 1
    assert "SIGTERM: left before step" in said
    assert "Traceback" not in said
    assert [pid for pid in everything if lives(pid)] == []

    process = training.start(run, *RAY)
    said, _ = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 0, said
    assert "resumed from" in said
    assert (run / "run.json").is_file()
    assert differing(state_of(two_processes), state_of(run)) == []


def test_error_of_a_worker_is_one_line_with_its_exit_code(training: Training, tmp_path: Path) -> None:
    process = training.start(tmp_path / "run", "--batch", "1", *RAY)
    said, _ = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 2, said
    assert [line for line in said.splitlines() if line.startswith("error:")] == [
        "error: 2 processes need a --batch of 2 or more and as many validation images; got --batch 1 and 6 images."
    ]
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
