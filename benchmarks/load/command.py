"""``python -m benchmarks load``: arguments in, tables, files and an exit code out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.load.points import PERCENTILES, ClosedLoop, Load, LoadReport, OpenLoop, read_load_report
from benchmarks.reporting import add_page, as_json, check_folder, positive, progress, write_file
from builder.console import DEFAULT_REPOSITORY
from builder.errors import SpecError

if TYPE_CHECKING:
    from benchmarks.load.sweep import Send, SweepOptions

HELP = "throughput against latency of a served model, by perf_analyzer"
DEFAULT_CONCURRENCIES = (1, 2, 4, 8)
GOAL_MISSED = 1


def add_arguments(command: argparse.ArgumentParser) -> None:
    """What is served, how it is loaded, and what is made of it."""
    add = command.add_argument
    add("--model", required=True, metavar="NAME")
    add("--repository", type=Path, default=DEFAULT_REPOSITORY, help="its server is started anew for each turn")
    add("--url", help="measure this server instead: grpc://HOST:PORT or http://HOST:PORT")
    add("--gpu", metavar="NAME", help="what serves, a name of builder/gpus.yaml or auto (default: the CPU)")
    add("--config-name", metavar="NAME", help="serve configs/NAME.pbtxt (default: --gpu's name, without it cpu)")
    _add_load(command)
    add("--sla-ms", type=positive(float), metavar="MS", help="goal: exit code 1 where no load keeps --percentile below")
    add("--percentile", type=int, choices=PERCENTILES, default=99, help="of the goal (default: 99)")
    add("--baseline", type=Path, metavar="FILE", help="a --json of before: exit code 1 where this run is worse")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add("--csv", type=Path, metavar="FILE", help="write a line for each load there")
    add_page(command)


def _add_load(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--concurrency", type=_numbers(int), default=(), metavar="N,N", help="requests under way (default: 1,2,4,8)")
    add("--rate", type=_numbers(float), default=(), metavar="R,R", help="requests/s, whether answered or not")
    add("--distribution", choices=("constant", "poisson"), default="poisson", help="of --rate (default: poisson)")
    add(
        "--send",
        choices=("grpc", "http", "shared-memory"),
        help="shared-memory has the server forget every other region (default: grpc, or as --url says)",
    )
    add("--batch", type=positive(int), default=1, help="images in a request (default: 1)")
    add("--images", type=Path, nargs="+", default=(), help="pictures, cycled (default: the two of Ultralytics)")
    add("--repeats", type=positive(int), default=5, help="turns, from which the noise is known (default: 5)")
    add("--window-s", type=positive(float), default=5.0, help="of each load in each turn (default: 5)")
    add("--warm-up-s", type=positive(float), default=1.0, help="before each, not counted (default: 1)")
    add("--perf-analyzer", type=Path, metavar="FILE", help="(default: PATH, or that of make tools)")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write; 1 where a stated goal is missed."""
    from benchmarks.load.batching import batching_line
    from benchmarks.load.page import page
    from benchmarks.load.regression import compare
    from benchmarks.load.sweep import answers_after_its_call, measure_sweep
    from benchmarks.load.text import goal_line, to_csv, to_text
    from benchmarks.perf_analyzer import find_perf_analyzer

    _check_folders(arguments)
    options = _options(arguments)
    baseline = _baseline(arguments, options.model)
    sweep = measure_sweep(options, find_perf_analyzer(arguments.perf_analyzer), arguments.argv, progress)
    report = sweep.report
    batching = batching_line(report, sweep.config, images_per_request=options.batch)
    hand_over = answers_after_its_call(sweep.config)
    print(to_text(report, batching=batching, commands=sweep.commands, hand_over=hand_over))
    if arguments.sla_ms is not None:
        print(goal_line(report, arguments.sla_ms, arguments.percentile))
    _write(arguments, "json", lambda: as_json(report.to_json()))
    _write(arguments, "csv", lambda: to_csv(report))
    comparison = compare(baseline, report) if baseline else None
    if comparison:
        print(comparison.to_text())
    _write(
        arguments,
        "html",
        lambda: page(
            report,
            batching=batching,
            commands=sweep.commands,
            sla_ms=arguments.sla_ms,
            percentile=arguments.percentile,
            comparison=comparison,
            hand_over=hand_over,
        ),
    )
    is_missed = arguments.sla_ms is not None and report.best_within(arguments.sla_ms, arguments.percentile) is None
    return GOAL_MISSED if is_missed or (comparison and comparison.is_worse) else 0


def _options(arguments: argparse.Namespace) -> SweepOptions:
    from benchmarks.load.sweep import SweepOptions
    from builder.config_pbtxt import CPU_CONFIG_NAME
    from builder.gpus import find_gpu
    from clients.wire.address import address_from

    gpu = find_gpu(arguments.gpu).name if arguments.gpu else None
    by_url: Send = "grpc"
    if arguments.url:
        by_url = "grpc" if address_from(arguments.url).is_grpc else "http"
        if arguments.send in ("grpc", "http") and arguments.send != by_url:
            raise SpecError(f"--send {arguments.send}: --url {arguments.url} is of another protocol; leave one out")
    return SweepOptions(
        model=arguments.model,
        loads=_loads(arguments),
        repository=arguments.repository,
        config_name=arguments.config_name or gpu or CPU_CONFIG_NAME,
        url=arguments.url,
        send=arguments.send or by_url,
        batch=arguments.batch,
        images=tuple(arguments.images),
        gpu=gpu,
        repeats=arguments.repeats,
        window_s=arguments.window_s,
        warm_up_s=arguments.warm_up_s,
        perf_analyzer=arguments.perf_analyzer,
    )


def _loads(arguments: argparse.Namespace) -> tuple[Load, ...]:
    concurrencies = arguments.concurrency or (() if arguments.rate else DEFAULT_CONCURRENCIES)
    return (
        *(ClosedLoop(concurrency=each) for each in dict.fromkeys(concurrencies)),
        *(OpenLoop(rate_per_s=each, distribution=arguments.distribution) for each in dict.fromkeys(arguments.rate)),
    )


def _numbers(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """The type of an argument: numbers above 0 with commas between them."""
    one = positive(kind)

    def convert(text: str) -> tuple[Any, ...]:
        return tuple(one(each) for each in text.split(","))

    convert.__name__ = f"{kind.__name__}, ..."
    return convert


def _baseline(arguments: argparse.Namespace, model: str) -> LoadReport | None:
    """Read before anything is measured: a wrong file should cost no minutes."""
    if not arguments.baseline:
        return None
    baseline = read_load_report(arguments.baseline)
    if baseline.model != model:
        raise SpecError(f"--baseline {arguments.baseline}: it is of model {baseline.model!r}, expected {model!r}")
    if arguments.repeats < 2:
        raise SpecError("--repeats 1: a comparison with --baseline needs 2 or more, from which the noise is known")
    return baseline


def _check_folders(arguments: argparse.Namespace) -> None:
    for name in ("json", "csv", "html"):
        check_folder(f"--{name}", getattr(arguments, name))


def _write(arguments: argparse.Namespace, name: str, text: Callable[[], str]) -> None:
    path: Path | None = getattr(arguments, name)
    if path:
        write_file(f"--{name}", path, text())
