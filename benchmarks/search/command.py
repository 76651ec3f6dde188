"""``python -m benchmarks search``: arguments in, a table out."""

from __future__ import annotations

import argparse

from benchmarks.reporting import add_reporting, positive, progress, reported
from builder.errors import SpecError

HELP = "a search with its trials side by side, against the same one after the other"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--at-once", type=positive(int), default=2, metavar="K", help="trials side by side (default: 2)")
    add("--cpus-per-trial", type=positive(int), default=1, metavar="N", help="in both arrangements (default: 1)")
    add("search", nargs="*", metavar="-- ARGUMENT",
        help="python -m trainer search's, such as --space, --trials, --data, --model, --epochs, but --run")  # fmt: skip
    add_reporting(parser, repeats=1)


def run(arguments: argparse.Namespace) -> int:
    """Measure and report; the exit code."""
    from benchmarks.search.measure import SearchOptions, measure_search

    if not arguments.search:
        words = "--space S.yaml --trials 2 --data D.yaml --model M.yaml --epochs 6"
        raise SpecError(f"expected the search behind --, such as -- {words}")
    if arguments.at_once < 2:
        raise SpecError("--at-once: expected 2 or more: one after the other is what it is compared with.")
    options = SearchOptions(
        at_once=arguments.at_once,
        cpus_per_trial=arguments.cpus_per_trial,
        repeats=arguments.repeats,
        search=tuple(arguments.search),
    )
    return reported(arguments, lambda: measure_search(options, arguments.argv, progress))
