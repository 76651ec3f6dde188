"""``python -m benchmarks tune``: arguments in; the winner is written, and a table and a page say why it won."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.reporting import add_page, as_json, check_folder, positive, progress, write_file
from builder.console import DEFAULT_REPOSITORY
from builder.errors import SpecError

if TYPE_CHECKING:
    from benchmarks.tune.run import TuneOptions

HELP = "the batch, instances, queue delay and queue bound that serve the most images within a latency limit"
MISSED = 1
LEAST_MEASUREMENTS = 4
GRID_CLIENTS = (1, 2, 4, 8, 16, 32)
GRID_SHARE = 0.97


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--repository", type=Path, default=DEFAULT_REPOSITORY, metavar="DIR")
    add("--model", required=True, metavar="NAME")
    add("--config-name", default="cpu", metavar="NAME", help="tune configs/NAME.pbtxt (default: cpu)")
    add("--write-as", metavar="NAME", help="write the winner to configs/NAME.pbtxt (default: the one that is tuned)")
    add("--dry-run", action="store_true", help="write no configuration")
    add("--sla-ms", type=positive(float), metavar="MS", help="the latency limit (default: none, the most throughput)")
    add("--percentile", type=int, choices=(50, 90, 95, 99), default=99, help="of the latency (default: 99)")
    add("--max-measurements", type=_measurements, default=15, metavar="N", help="never more (default: 15)")
    add("--max-batch", type=positive(int), metavar="N", help="the largest to try (default: the configuration's)")
    add("--max-instances", type=positive(int), metavar="N", help="(default: 4, and on a CPU no more than its cores)")
    add(
        "--delays-ms",
        type=_delay,
        nargs="+",
        default=(0.0, 0.5, 1.0, 2.0, 5.0, 10.0),
        metavar="MS",
        help="queue delays to try (default: 0 0.5 1 2 5 10)",
    )
    add("--window-s", type=positive(float), default=4.0, help="of each measurement (default: 4)")
    add("--warm-up-s", type=positive(float), default=1.0, help="before each, not counted (default: 1)")
    add("--perf-analyzer", type=Path, metavar="FILE", help="(default: the one on PATH, or that of make tools)")
    add("--json", type=Path, metavar="FILE", help="write every figure there too")
    add_page(parser)
    grid = parser.add_argument_group("the exhaustive grid that tuning is held to")
    grid.add_argument(
        "--grid",
        type=Path,
        metavar="FILE",
        help="measure every configuration in place of tuning; FILE keeps what is measured, a later run goes on there",
    )
    grid.add_argument(
        "--clients",
        type=positive(int),
        nargs="+",
        default=GRID_CLIENTS,
        metavar="N",
        help=f"load levels of each (default: {' '.join(map(str, GRID_CLIENTS))})",
    )
    grid.add_argument(
        "--against",
        type=Path,
        metavar="TUNE.json",
        help=f"say which share of the grid's best its winner has; exit code 1 below {GRID_SHARE}",
    )


def run(arguments: argparse.Namespace) -> int:
    """Tune or measure the grid, and report; the exit code is 1 where the limit is missed."""
    from benchmarks.tune.run import tune

    for flag, path in (("--json", arguments.json), ("--html", arguments.html), ("--grid", arguments.grid)):
        check_folder(flag, path)
    options = _options(arguments)
    configs = arguments.repository / arguments.model / "configs"
    if options.write_as and not arguments.grid and configs.is_dir() and not os.access(configs, os.W_OK):
        # Told now, not when all is measured and its figures are lost.
        raise SpecError(f"{configs}: cannot be written to; make it writable, or give --dry-run")
    if arguments.against and not arguments.grid:
        raise SpecError("--against compares with a grid; name its file with --grid")
    if arguments.grid:
        return _run_grid(arguments, options)
    report = tune(options, arguments.argv, progress)
    print(report.to_text())
    _write(arguments, report.to_json())
    if arguments.html:
        from benchmarks.tune.page import page

        write_file("--html", arguments.html, page(report))
    return 0 if report.all_met else MISSED


def _run_grid(arguments: argparse.Namespace, options: TuneOptions) -> int:
    from benchmarks.tune.grid import compare_with_grid

    report = compare_with_grid(
        options,
        arguments.grid,
        tuple(arguments.clients),
        arguments.against,
        argv=arguments.argv,
        progress=progress,
    )
    print(report.to_text())
    _write(arguments, report.to_json())
    return 0 if report.share is None or report.share >= GRID_SHARE else MISSED


def _options(arguments: argparse.Namespace) -> TuneOptions:
    from benchmarks.tune.run import TuneOptions

    return TuneOptions(
        repository=arguments.repository,
        model=arguments.model,
        config_name=arguments.config_name,
        write_as=None if arguments.dry_run else arguments.write_as or arguments.config_name,
        sla_ms=arguments.sla_ms,
        percentile=arguments.percentile,
        max_measurements=arguments.max_measurements,
        max_batch=arguments.max_batch,
        max_instances=arguments.max_instances,
        delays_us=tuple(sorted({round(each * 1000) for each in arguments.delays_ms})),
        window_s=arguments.window_s,
        warm_up_s=arguments.warm_up_s,
        perf_analyzer=arguments.perf_analyzer,
    )


def _write(arguments: argparse.Namespace, value: object) -> None:
    if arguments.json:
        write_file("--json", arguments.json, as_json(value))


def _measurements(text: str) -> int:
    value = int(text)
    if value < LEAST_MEASUREMENTS:
        raise argparse.ArgumentTypeError(
            f"expected {LEAST_MEASUREMENTS} or more, three to fit the model and one to confirm, got {value}"
        )
    return value


def _delay(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected milliseconds from 0, got {text}")
    return value
