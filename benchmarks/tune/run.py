"""From a configuration in a repository to a tuned one in its place."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.machine import environment, other_load_text
from benchmarks.perf_analyzer import find_perf_analyzer
from benchmarks.served import server_version
from benchmarks.tune.config_file import (
    config_path,
    most_instances,
    read_config,
    settings_in,
    with_settings,
    write_config,
)
from benchmarks.tune.report import TuneReport
from benchmarks.tune.search import search
from benchmarks.tune.space import Goal, Space, powers_of_two
from benchmarks.tune.surface import Budget
from benchmarks.tune.triton_surface import Timing, TritonSurface, serving
from builder.errors import SpecError
from builder.server_options import ServerOptions, check_repository
from builder.spec import LARGEST_BATCH

if TYPE_CHECKING:
    from builder.config_pbtxt import ModelConfig

CONFIG_NAME = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneOptions:
    """What is tuned, to which goal, and by which measurements."""

    repository: Path
    model: str
    config_name: str
    write_as: str | None
    """None: nothing is written."""
    sla_ms: float | None
    percentile: int
    max_measurements: int
    max_batch: int | None
    max_instances: int | None
    delays_us: tuple[int, ...]
    window_s: float
    warm_up_s: float
    perf_analyzer: Path | None

    @property
    def goal(self) -> Goal:
        """What is wanted."""
        return Goal(sla_ms=self.sla_ms, percentile=self.percentile)

    @property
    def timing(self) -> Timing:
        """How it is measured."""
        return Timing(window_s=self.window_s, warm_up_s=self.warm_up_s)


def tune(options: TuneOptions, argv: Sequence[str], progress: Callable[[str], None]) -> TuneReport:
    """Search, and write the winner.

    Raises:
        BuilderError: the request is wrong, or the server cannot be started or measured.
    """
    config, space = searched(options)
    _check_write_as(options)
    analyzer = find_perf_analyzer(options.perf_analyzer)
    with serving(options.repository, options.config_name, config, analyzer, options.timing) as surface:
        budget = Budget(surface=surface, allowed=options.max_measurements)
        outcome = search(space, options.goal, budget, progress)
        rows = environment_of(surface, argv)
    written = None
    if outcome.winner and options.write_as:
        target = config_path(options.repository, options.model, options.write_as)
        settings = dataclasses.replace(outcome.winner.trial.settings, max_queue_size=outcome.queue_bound)
        write_config(target, with_settings(config, settings))
        written = str(target)
    return TuneReport(
        model=options.model,
        config_name=options.config_name,
        outcome=outcome,
        written=written,
        environment=rows,
    )


def searched(options: TuneOptions) -> tuple[ModelConfig, Space]:
    """The configuration, and what of it is searched.

    Raises:
        BuilderError: there is none, or it cannot be tuned so.
    """
    check_repository(
        ServerOptions(repository=options.repository, config_name=options.config_name, models=(options.model,))
    )
    config = read_config(config_path(options.repository, options.model, options.config_name))
    base = settings_in(config)
    most = options.max_batch or base.max_batch
    if most > max(LARGEST_BATCH, base.max_batch):
        raise SpecError(
            f"--max-batch {most}: expected {LARGEST_BATCH} at most, the largest that python -m builder build serves"
        )
    if most > base.max_batch and config.backend != "python":
        raise SpecError(
            f"--max-batch {most}: configs/{options.config_name}.pbtxt has {base.max_batch}, which is what its plan or "
            f"profile was built for; build it with --max-batch {most} first"
        )
    timeout_us = base.queue_timeout_ms * 1000
    delays_us = tuple(each for each in options.delays_us if not timeout_us or each < timeout_us)
    if not delays_us:
        raise SpecError(
            f"--delays-ms: expected one below the queue's timeout of {base.queue_timeout_ms} ms, got none; requests "
            "that wait that long are refused"
        )
    instances = options.max_instances or most_instances(config)
    return config, Space(
        base=base,
        batches=powers_of_two(most),
        instances=tuple(range(1, instances + 1)),
        delays_us=delays_us,
    )


def environment_of(surface: TritonSurface, argv: Sequence[str]) -> dict[str, str]:
    """The last table of a report."""
    return environment(
        argv,
        tritonserver=server_version(surface.server),
        load=surface.analyzer.name,
        window=f"{surface.timing.window_s:g} s after {surface.timing.warm_up_s:g} s of warm-up",
        others=other_load_text(statistics.fmean(surface.other_shares or (0.0,))),
    )


def _check_write_as(options: TuneOptions) -> None:
    import re

    if options.write_as is not None and not re.fullmatch(CONFIG_NAME, options.write_as):
        raise SpecError(f"--write-as {options.write_as!r}: expected letters, digits, '.', '_' and '-'")
