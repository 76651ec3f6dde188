"""The same search twice a turn: trials one after the other, and side by side, with the same share for each trial."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import OtherLoad, environment
from benchmarks.reporting import check_behind
from benchmarks.search.report import SearchReport
from builder.errors import SpecError
from trainer.errors import TrainingError

_OURS = frozenset({"--run", "--resume", "--trials-at-once", "--cpus-per-trial", "--gpus-per-trial", "--early-stopping"})
_LISTENED_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions:
    """One run of the benchmark."""

    at_once: int
    cpus_per_trial: int
    repeats: int
    search: tuple[str, ...]
    """Arguments of ``python -m trainer search``."""


def measure_search(options: SearchOptions, argv: Sequence[str], progress: Callable[[str], None]) -> SearchReport:
    """Search in both arrangements, turn by turn, and by turns which of them is first.

    Raises:
        SpecError: the search is wrong.
        TrainingError: it failed.
    """
    check_behind(options.search, _OURS)
    cores = len(os.sched_getaffinity(0))
    if options.at_once * options.cpus_per_trial > cores:
        raise SpecError(
            f"{options.at_once} trials with {options.cpus_per_trial} CPU(s) each: this machine has {cores} core(s)."
        )
    seconds: dict[int, list[float]] = {1: [], options.at_once: []}
    found: list[Any] = []
    others = 0.0
    with tempfile.TemporaryDirectory(prefix="search-") as name:
        for turn in range(options.repeats):
            others = max(others, _other_load())
            for at_once in sorted(seconds, reverse=bool(turn % 2)):
                progress(f"turn {turn + 1} of {options.repeats}: {at_once} at once")
                folder = Path(name) / f"{turn}-{at_once}"
                seconds[at_once].append(_search(options, folder, at_once))
                found.append(json.loads((folder / "search.json").read_bytes()))
    figures = [[(trial["state"], trial["history"]) for trial in each["trials"]] for each in found]
    return SearchReport(
        trials=len(found[0]["trials"]),
        epochs=found[0]["settings"]["epochs"],
        at_once=options.at_once,
        cpus_per_trial=options.cpus_per_trial,
        in_turn_s=tuple(seconds[1]),
        side_by_side_s=tuple(seconds[options.at_once]),
        same=all(each == figures[0] for each in figures),
        other_cpu_share=others,
        environment=environment(argv),
    )


def _search(options: SearchOptions, folder: Path, at_once: int) -> float:
    """The seconds of one search."""
    share = ("--trials-at-once", str(at_once), "--cpus-per-trial", str(options.cpus_per_trial))
    command = [sys.executable, "-m", "trainer", "search", "--run", str(folder), *options.search, *share]
    start_s = time.perf_counter()
    ended = subprocess.run([*command, "--early-stopping", "none"], capture_output=True, text=True, check=False)
    taken_s = time.perf_counter() - start_s
    if ended.returncode:
        said = (ended.stderr.strip() or ended.stdout.strip() or "nothing was said").splitlines()[-1]
        kind = SpecError if ended.returncode == SpecError.exit_code else TrainingError
        raise kind(said.removeprefix("error: "))
    return taken_s


def _other_load() -> float:
    others = OtherLoad()
    time.sleep(_LISTENED_S)
    return others.share()
