"""``python -m benchmarks diagnose``: a server that runs, its readings out."""

from __future__ import annotations

import argparse

from benchmarks.reporting import Report, add_output, positive, progress, reported

HELP = "what holds a running server up: memory, gaps between executions, the bus, queue, CPU"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Watch a running server and say, for each figure, what was read, its threshold, and what to do beyond it. It "
        "sends no request to a model: most of it shows under load only. What cannot be measured where it runs is said "
        "so."
    )
    add = parser.add_argument
    add("--url", default="grpc://127.0.0.1:8001", help="(default: grpc://127.0.0.1:8001)")
    add("--metrics-url", default="http://127.0.0.1:8002/metrics", help="(default: http://127.0.0.1:8002/metrics)")
    add("--model", metavar="NAME", help="(default: every model that is READY)")
    add("--duration-s", type=positive(float), default=10.0, metavar="S", help="(default: 10)")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Watch and report; the exit code."""
    from benchmarks.diagnose.report import diagnosis
    from benchmarks.diagnose.watch import WatchOptions, watch
    from benchmarks.machine import environment

    options = WatchOptions(
        url=arguments.url,
        metrics_url=arguments.metrics_url,
        model=arguments.model,
        duration_s=arguments.duration_s,
    )

    def measure() -> Report:
        progress(f"watching {options.url} for {options.duration_s:g} s")
        return diagnosis(watch(options), environment(arguments.argv))

    return reported(arguments, measure)
