"""``python -m benchmarks peers``: arguments in, a table and a page out."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.reporting import add_page, positive, progress, reported
from builder.errors import SpecError

HELP = "image to boxes, throughput, bytes and memory beside Ultralytics and Roboflow's server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--weights", type=Path, required=True, help="a .pt; everybody serves these weights")
    add("--images", type=Path, nargs="+", default=(), help="pictures, cycled (default: the two of Ultralytics)")
    add("--callers", type=positive(int), default=4, help="at once, for the throughput (default: 4)")
    add("--calls", type=positive(int), default=5, help="of each in each turn and for each picture (default: 5)")
    add("--duration-s", type=positive(float), default=3.0, help="of each throughput in each turn (default: 3)")
    add("--settle-s", type=positive(float), default=1.0, help="before each, not counted (default: 1)")
    add("--repeats", type=positive(int), default=5, help="turns (default: 5)")
    add(
        "--roboflow-python",
        type=Path,
        metavar="FILE",
        help="Python of an environment with Roboflow's server: pip install 'inference-cpu[http]' (7 GB)",
    )
    add_page(parser)
    add("--json", type=Path, metavar="FILE", help="write every figure there too")
    # Whoever does not find the boxes is an error, not a slow one.
    parser.set_defaults(check=True)


def run(arguments: argparse.Namespace) -> int:
    """Measure and report; exit code 1 where somebody's boxes are not those of the others."""
    from benchmarks.peers.measure import PeersOptions, measure_peers
    from benchmarks.peers.page import page

    python: Path | None = arguments.roboflow_python
    if python and not python.is_file():
        # Told now, not after minutes of exports.
        raise SpecError(f"--roboflow-python {python}: expected the Python of an environment, found no file")
    options = PeersOptions(
        weights=arguments.weights,
        images=tuple(arguments.images),
        callers=arguments.callers,
        calls=arguments.calls,
        duration_s=arguments.duration_s,
        settle_s=arguments.settle_s,
        repeats=arguments.repeats,
        roboflow_python=python,
    )
    return int(reported(arguments, lambda: measure_peers(options, arguments.argv, progress), page) != 0)
