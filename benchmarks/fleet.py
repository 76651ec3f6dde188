"""``python -m benchmarks fleet``: a build for several GPUs against a build for the first of them, plans aside.

Both run as a user's command does, in a process of their own and with a cache of their own, in turns. A third build then
adds a GPU to what is cached: only what depends on the GPU may run.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Spread, ratios
from benchmarks.machine import environment
from benchmarks.tables import key_values, table
from builder.errors import BuilderError, SpecError

Progress = Callable[[str], None]

REQUIRED = 1.5
"""The most time of a build for the fleet, as a ratio to a build for one GPU."""
PER_GPU = ("compile", "plan")
"""Stages that depend on the GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetBuild:
    """All figures of one run."""

    weights: str
    precision: str
    gpus: tuple[str, ...]
    one_s: tuple[float, ...]
    """Of the whole command for the first GPU, in each turn."""
    fleet_s: tuple[float, ...]
    """For all of them."""
    ratio: Spread
    """Time for the fleet / time for one in the same turn."""
    rebuilt: tuple[str, ...]
    """Stages that ran where the cache held a build for one GPU, and only ``--gpu`` changed."""
    added_s: float
    """Of that command."""
    environment: dict[str, str]

    @property
    def all_met(self) -> bool:
        """Whether the target is met, and nothing but what depends on the GPU ran again."""
        return self.ratio.median <= REQUIRED and set(self.rebuilt) <= set(PER_GPU)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"benchmark": "fleet", **dataclasses.asdict(self), "required": REQUIRED, "met": self.all_met}

    def to_text(self) -> str:
        """What is printed."""
        rows = ((f"for {self.gpus[0]}", self.one_s), (f"for {', '.join(self.gpus)}", self.fleet_s))
        cells = [
            (name, f"{spread.median:.1f}", f"{spread.lowest:.1f}-{spread.highest:.1f}")
            for name, spread in ((name, Spread.of(seconds)) for name, seconds in rows)
        ]
        lines = [
            f"{self.weights}, {self.precision}, {len(self.one_s)} turns, each build with an empty cache",
            "",
            table(("python -m builder build", "s", "range s"), cells),
            "",
            f"for all / for one: {self.ratio}; target at most {REQUIRED:.2f}: {'met' if self.all_met else 'NOT MET'}",
            f"the others added to the first one's cache: {self.added_s:.1f} s; stages run: {', '.join(self.rebuilt)}",
            "",
            key_values(self.environment),
        ]
        return "\n".join(lines)


def measure_fleet(
    weights: Path, precision: str, gpus: Sequence[str], repeats: int, *, argv: Sequence[str], progress: Progress
) -> FleetBuild:
    """Build in ``repeats`` turns.

    Raises:
        SpecError: fewer than two GPUs.
        BuilderError: a build fails; its own message is quoted.
    """
    if len(gpus) < 2:
        raise SpecError(f"--gpus: expected two GPUs or more, got {', '.join(gpus) or 'none'}.")
    one_s, fleet_s = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(repeats):
            folder = Path(scratch, str(turn))
            one_s.append(_build(weights, precision, gpus[:1], folder / "one")[0])
            fleet_s.append(_build(weights, precision, gpus, folder / "fleet")[0])
            progress(f"turn {turn + 1} of {repeats}")
        added_s, rebuilt = _build(weights, precision, gpus, folder / "one")
    return FleetBuild(
        weights=weights.name,
        precision=precision,
        gpus=tuple(gpus),
        one_s=tuple(one_s),
        fleet_s=tuple(fleet_s),
        ratio=ratios(fleet_s, one_s),
        rebuilt=tuple(dict.fromkeys(rebuilt)),
        added_s=added_s,
        environment=environment(argv),
    )


def _build(weights: Path, precision: str, gpus: Sequence[str], folder: Path) -> tuple[float, list[str]]:
    """Seconds of one build, and the stages that it ran."""
    command = [sys.executable, "-m", "builder", "build", "--weights", weights, "--precision", precision, "--json"]
    command += ["--gpu", ",".join(gpus), "--repository", folder / "repository", "--cache", folder / "cache"]
    start = time.perf_counter()
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise BuilderError(f"a build failed: {done.stderr.strip().splitlines()[-1]}")
    stages = json.loads(done.stdout.splitlines()[-1])["stages"]
    return seconds, [stage["name"] for stage in stages if not stage["reused"]]
