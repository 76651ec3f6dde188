"""Writers that are killed at random moments, each a child of this process: torch is imported once.

Run as a program with a folder and a number; prints a line for each child that was killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.unit.trainer.checkpoints.states import meta_of, state_of
from trainer.checkpoints.file import newest_valid, read_checkpoint
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.writer import CheckpointWriter


def write_until_killed(folder: Path, step: int, written: int) -> None:
    """``written`` is told the number of each checkpoint that the writer is done with."""
    while True:
        writer = CheckpointWriter(folder, Retention(last=1))
        writer.submit(state_of(step, values=300_000), meta_of(step // 10, step))
        assert writer.close(60)
        os.write(written, step.to_bytes(4, "big"))
        step += 1


def main(folder: Path, kills: int) -> None:
    moments = random.Random(20)
    step = 1
    for _ in range(kills):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            write_until_killed(folder, step, writing)
        os.close(writing)
        while newest_valid_step(folder) == 0:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading, "rb") as file:
            told = file.read()
        left = sorted(path.name for path in folder.iterdir())
        found = newest_valid(folder)
        assert found
        state, meta = read_checkpoint(found.path)
        done = int.from_bytes(told[-4:], "big")
        print(json.dumps({"done": done, "found": meta.step, "seed": state["seed"], "left": left}), flush=True)
        step = meta.step + 1


def newest_valid_step(folder: Path) -> int:
    """Of a folder that another process writes to: 0 until there is one."""
    return sum(1 for _ in folder.glob("e*.json"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
