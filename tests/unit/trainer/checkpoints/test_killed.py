"""Killed at any moment, a writer leaves a whole checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
KILLS = 20


def test_whole_checkpoint_is_found_after_each_of_twenty_kills(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.trainer.checkpoints.killed_writers", str(tmp_path), str(KILLS)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    rounds = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(rounds) == KILLS
    for each in rounds:
        # What the writer was done with is never lost, and what is found is what its name says.
        assert each["found"] >= each["done"]
        assert each["seed"] == each["found"]
    # Some were killed in the middle of a file.
    assert any(name.endswith(".tmp") for each in rounds for name in each["left"])
