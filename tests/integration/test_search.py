"""A search on a real Ray: killed, asked to leave, and gone on with."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.trainings import ROOT, kill, write_dataset, write_network

EPOCHS = 6
"""A trial that is to be cut has a second left and more when it is."""
SETTINGS = f"--epochs {EPOCHS} --first-rung {EPOCHS} --batch 4 --imgsz 64 --optimizer AdamW --set nbs=8 --save-steps 1"
IN_TURN = ("--trials-at-once", "1", "--cpus-per-trial", "1")


def start(run: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", "search", "--run", str(run), *IN_TURN, *more],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def trials_of(run: Path) -> list[dict[str, Any]]:
    path = run / "search.json"
    return json.loads(path.read_bytes())["trials"] if path.exists() else []


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path, trial: int, step: int) -> None:
    """Until a trial has saved a step, or the search has ended."""
    folder = run / f"trials/{trial:04d}/checkpoints"
    until_s = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < until_s:
        if any(int(path.stem.rpartition("-s")[2]) >= step for path in folder.glob("e*-s*.json")):
            return
        time.sleep(0.01)


def wait_until_it_stands(path: Path, for_s: float = 3.0) -> None:
    """Until a file has not grown for a while."""
    size, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < for_s:
        if (now := path.stat().st_size) != size:
            size, since_s = now, time.monotonic()
        time.sleep(0.05)


def processes_of(session: int) -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        # Any of them may end at any moment.
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.add((path.parent / "cmdline").read_text().replace("\0", " "))
    return found


def test_cut_search_goes_on_where_it_was(tmp_path: Path) -> None:
    run, space = tmp_path / "search", tmp_path / "space.yaml"
    space.write_text("lr0: {loguniform: [1e-4, 1e-2]}\n")
    data, model = write_dataset(tmp_path / "data"), write_network(tmp_path)
    process = start(
        run, "--space", str(space), "--trials", "2", "--data", str(data), "--model", str(model), *SETTINGS.split()
    )
    wait_for_checkpoint(process, run, 1, 7)
    said = kill(process)
    assert [trial["state"] for trial in trials_of(run)] == ["begun", "waiting"], said

    process = start(run, "--resume")
    wait_for_checkpoint(process, run, 2, 2)
    first = (run / "trials/0001.log").read_text()
    assert "resumed from" in first
    # The first seven steps at least were not trained again.
    assert int(first.split("resumed from ")[1].split(" steps done")[0].split()[-1]) >= 7
    assert trials_of(run)[0]["state"] == "done"
    # Standing still, it does not hear of the epoch that ends next; interrupted, it never will.
    os.kill(process.pid, signal.SIGSTOP)
    wait_until_it_stands(run / "trials/0002/steps.csv")
    os.kill(process.pid, signal.SIGTERM)
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "1 trial(s) are saved" in said
    assert "has not left in time" not in said
    assert "SIGTERM: left before step" in (run / "trials/0002.log").read_text()
    assert processes_of(process.pid) == set()

    process = start(run, "--resume")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "trial 1/2" not in said
    assert (run / "trials/0001.log").read_text() == first
    assert json.loads((run / "trials/0001/settings.json").read_bytes())["parts"] == 2
    assert [(trial["state"], trial["epochs"]) for trial in trials_of(run)] == [("done", EPOCHS)] * 2
    assert len(list(csv.DictReader((run / "trials/0002/results.csv").open()))) == EPOCHS
    assert [row["state"] for row in csv.DictReader((run / "trials.csv").open())] == ["done", "done"]
    assert (run / "search.png").stat().st_size > 0
    assert {path.name for path in run.iterdir()} == {"search.json", "search.png", "trials", "trials.csv"}
    assert processes_of(process.pid) == set()
