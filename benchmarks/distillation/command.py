"""``python -m benchmarks distillation``: arguments in, a table out."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.reporting import check_folder, count, progress, reported
from builder.errors import SpecError

HELP = "a student's accuracy with a teacher and without, seed by seed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--teacher", type=Path, required=True, metavar="FILE.pt", help="trained on the classes of the data")
    add("--seeds", type=count, nargs="+", default=[0, 1], metavar="N", help="a pair of trainings each (default: 0 1)")
    add(
        "--distil",
        action="append",
        metavar="NAME=X,…",
        help="weights (logits, boxes, features) and the temperature of the teacher; may be repeated (default: train's)",
    )
    add("--folder", type=Path, required=True, metavar="DIR", help="the runs; what is finished there is not run again")
    add("--json", type=Path, metavar="FILE", help="write every figure there too")
    add("train", nargs="*", metavar="-- ARGUMENT", help="python -m trainer train's, but --run, --seed and --teacher")
    parser.set_defaults(check=False)


def run(arguments: argparse.Namespace) -> int:
    """Measure and report."""
    from benchmarks.distillation.measure import DistillationOptions, measure_distillation, taught_of

    check_folder("--json", arguments.json)
    if not arguments.train:
        raise SpecError("expected the student's training behind --, such as -- --model M.yaml --data D.yaml --epochs 6")
    options = DistillationOptions(
        teacher=arguments.teacher,
        seeds=tuple(dict.fromkeys(arguments.seeds)),
        taught=tuple(dict.fromkeys(taught_of(text) for text in arguments.distil or ("",))),
        folder=arguments.folder,
        train=tuple(arguments.train),
    )
    return reported(arguments, lambda: measure_distillation(options, arguments.argv, progress))
