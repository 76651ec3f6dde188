"""``python -m benchmarks coldstart``: arguments in, a table and a page out."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.reporting import add_page, add_reporting, positive, progress, reported
from builder.console import DEFAULT_REPOSITORY
from builder.errors import SpecError

PARTS = ("starts", "switching", "idling")
HELP = "the first requests after a start, with warmup and without, after a switch and after idling"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add(
        "--model",
        action="append",
        required=True,
        metavar="NAME",
        help="a model of the repository; given twice or more, switching is measured",
    )
    add(
        "--config-name",
        default="cpu",
        metavar="NAME",
        help='serve configs/NAME.pbtxt; "" is config.pbtxt, on a GPU (default: cpu)',
    )
    add("--repository", type=Path, default=DEFAULT_REPOSITORY)
    add("--images", type=Path, nargs="+", default=(), help="pictures, cycled (default: the two of Ultralytics)")
    add("--requests", type=positive(int), default=60, help="after each start, 20 or more (default: 60)")
    add("--idle-s", type=positive(float), default=60.0, metavar="S", help="how long to idle (default: 60)")
    add(
        "--keepwarm-s",
        type=positive(float),
        metavar="S",
        help="idle also with python -m clients keepwarm beside it, every so often, and say whether it helps",
    )
    add(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        metavar="PART",
        help=f"what to measure, of {', '.join(PARTS)} (default: all; switching takes two models)",
    )
    add_page(parser, "the latency by request number")
    add_reporting(parser, repeats=5)


def run(arguments: argparse.Namespace) -> int:
    """Measure and report; the exit code."""
    from benchmarks.coldstart.measure import ColdstartOptions, measure_coldstart
    from benchmarks.coldstart.page import page

    if set(arguments.parts) == {"switching"} and len(set(arguments.model)) < 2:
        raise SpecError(
            f"--parts switching: expected two models to switch between, got {arguments.model[0]} alone; "
            "give another --model"
        )
    options = ColdstartOptions(
        models=tuple(arguments.model),
        repository=arguments.repository,
        config_name=arguments.config_name or None,
        images=tuple(arguments.images),
        repeats=arguments.repeats,
        requests=arguments.requests,
        idle_s=arguments.idle_s,
        keepwarm_s=arguments.keepwarm_s,
        parts=frozenset(arguments.parts),
    )
    return reported(arguments, lambda: measure_coldstart(options, arguments.argv, progress), page)
