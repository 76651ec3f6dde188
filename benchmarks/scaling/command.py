"""``python -m benchmarks scaling``: arguments in, a table and a page out."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.reporting import add_page, positive, progress, reported
from benchmarks.scaling.links import PRESETS, Link, find_link
from builder.errors import SpecError

HELP = "what a second worker gains a training, measured, and what 8 and 64 would, predicted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.set_defaults(check=False)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="YAML", help="an Ultralytics data.yaml, as of the training")
    add("--weights", type=Path, metavar="FILE.pt", help="what is trained")
    add("--model", metavar="YAML", help="or a model description, with random weights")
    add("--imgsz", type=positive(int), default=640, metavar="PX", help="(default: 640)")
    add("--batch", type=positive(int), default=4, metavar="N", help="images of a step of one worker (default: 4)")
    add("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="(default: fp32)")
    add(
        "--devices",
        default="cpu",
        metavar="LIST",
        help="cpu for two workers on the CPU, cpu,cpu,cpu,cpu for four, or GPUs as 0,1; "
        "of one GPU the step is measured and the rest predicted (default: cpu)",
    )
    add(
        "--threads",
        type=positive(int),
        metavar="N",
        help="of each worker on a CPU, of one alone too (default: the cores shared among all)",
    )
    add("--steps", type=positive(int), default=5, help="of each arrangement in each turn (default: 5)")
    add("--repeats", type=positive(int), default=5, help="turns (default: 5)")
    names = ", ".join(link.name for link in PRESETS.values())
    add("--link", action="append", metavar="NAME", help=f"predict for {names}; may be repeated (default: all)")
    add("--link-gbit", type=positive(float), metavar="G", help="predict for another link: Gbit/s in one direction")
    add(
        "--link-latency-us",
        type=positive(float),
        default=14.0,
        metavar="US",
        help="of a hop of that link (default: 14)",
    )
    add(
        "--predict",
        type=positive(int),
        nargs="+",
        default=(8, 64),
        metavar="N",
        help="numbers of workers (default: 8 64)",
    )
    add("--json", type=Path, metavar="FILE", help="write every figure there too")
    add_page(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, predict and report; the exit code."""
    from benchmarks.scaling.measure import ScalingOptions, measure_scaling
    from benchmarks.scaling.page import page

    if (arguments.weights is None) == (arguments.model is None):
        raise SpecError("expected what to train: --weights FILE.pt or --model yolo11n.yaml, one of them.")
    options = ScalingOptions(
        weights=arguments.weights,
        model=arguments.model,
        data=arguments.data,
        imgsz=arguments.imgsz,
        batch=arguments.batch,
        precision=arguments.precision,
        devices=arguments.devices,
        threads=arguments.threads,
        steps=arguments.steps,
        repeats=arguments.repeats,
        links=_links(arguments),
        predicted=tuple(dict.fromkeys(arguments.predict)),
    )
    return reported(arguments, lambda: measure_scaling(options, arguments.argv, progress), page)


def _links(arguments: argparse.Namespace) -> tuple[Link, ...]:
    links = [find_link(name) for name in arguments.link or ()]
    if arguments.link_gbit:
        links.append(Link(name="given", gbit_per_s=arguments.link_gbit, latency_us=arguments.link_latency_us))
    return tuple(dict.fromkeys(links)) or tuple(PRESETS.values())
