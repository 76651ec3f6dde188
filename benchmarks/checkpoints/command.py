"""``python -m benchmarks checkpoints``: arguments in, a table out."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.reporting import add_reporting, positive, progress, reported

HELP = "what writing checkpoints costs the steps of a training"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--model", default="yolo11n.yaml", metavar="YAML", help="what is trained (default: yolo11n.yaml)")
    add("--batch", type=positive(int), default=4, help="images of a step (default: 4)")
    add("--imgsz", type=positive(int), default=320, metavar="PX", help="(default: 320)")
    add("--every", type=positive(int), default=20, metavar="STEPS", help="a checkpoint each (default: 20)")
    add("--folder", type=Path, metavar="DIR", help="the disk to write to (default: the one of temporary files)")
    add_reporting(parser, repeats=4)


def run(arguments: argparse.Namespace) -> int:
    """Measure and report."""
    from benchmarks.checkpoints.measure import CheckpointOptions, measure_checkpoints

    options = CheckpointOptions(
        model=arguments.model,
        batch=arguments.batch,
        imgsz=arguments.imgsz,
        every=arguments.every,
        repeats=arguments.repeats,
        folder=arguments.folder,
    )
    return reported(arguments, lambda: measure_checkpoints(options, arguments.argv, progress))
