"""``python -m benchmarks``: arguments in, figures out; the work is elsewhere and imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reporting import add_output, add_reporting, checked_at_progress, positive, progress, reported
from builder.console import DEFAULT_REPOSITORY
from builder.errors import BuilderError
from builder.signals import Interrupted, interrupted_by
from clients.errors import ClientError

ROOMS: tuple[str, ...] = (
    "checkpoints",
    "coldstart",
    "diagnose",
    "distillation",
    "capacity",
    "load",
    "peers",
    "scaling",
    "search",
    "tune",
)
"""Commands with a package of their own, whose module ``command`` has ``HELP``, ``add_arguments`` and ``run``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0 done, 1 failed, 2 a wrong request, 3 a target missed under --check."""
    arguments = parser().parse_args(argv)
    arguments.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        # The default action would leave the regions of shared memory and the temporary folders behind.
        with interrupted_by(signal.SIGINT, signal.SIGTERM) as interruption, checked_at_progress(interruption.check):
            code: int = arguments.run(arguments)
    except BuilderError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except ClientError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as e:
        print("interrupted; nothing was reported", file=sys.stderr)
        return e.exit_code if isinstance(e, Interrupted) else 128 + signal.SIGINT
    return code


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measures what is built and served, on this machine."
    )
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_overhead(commands.add_parser("overhead", help="the graph in process against the same through tritonserver"))
    _add_versus(commands.add_parser("versus-ultralytics", help="image to boxes, against Ultralytics' Triton client"))
    _add_evaluation(commands.add_parser("evaluation", help="an evaluation, against the graph alone on its images"))
    _add_queue_policy(commands.add_parser("queue-policy", help="what a queue policy does to random arrivals"))
    _add_activations(commands.add_parser("activations", help="the estimate of a graph's memory, against runtimes"))
    _add_fleet(commands.add_parser("fleet", help="a build for several GPUs, against a build for one"))
    _add_clients(commands.add_parser("clients", help="a client's work per frame, its throughput, restarts under load"))
    for room in ROOMS:
        module = importlib.import_module(f"benchmarks.{room}.command")
        command = commands.add_parser(room, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    _add_reference(commands.add_parser("reference", help="write the weights that the figures in reports/ are of"))
    return top


def _add_overhead(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_overhead)
    add = command.add_argument
    add("--model", required=True, metavar="NAME", help="a model of the repository, served by its configs/cpu.pbtxt")
    add("--repository", type=Path, default=DEFAULT_REPOSITORY)
    _add_measuring(command, repeats=7)
    add("--duration-s", type=positive(float), default=3.0, help="of each row in each turn (default: 3)")
    add("--settle-s", type=positive(float), default=0.5, help="before each, not counted (default: 0.5)")


def _add_versus(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_versus)
    command.add_argument("--weights", type=Path, required=True, help="a .pt; both models are built of it")
    _add_measuring(command, repeats=7)
    command.add_argument(
        "--calls", type=positive(int), default=20, help="of each row in each turn and for each picture (default: 20)"
    )


def _add_evaluation(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_evaluation)
    add = command.add_argument
    add("--weights", type=Path, required=True, help="a .pt or .onnx; its FP32 graph with the served head is measured")
    add("--imgsz", metavar="PX|H,W", help="input size (default: what the weights were trained at)")
    add("--data", type=Path, required=True, metavar="YAML", help="labelled images; all of the split are evaluated")
    add("--split", choices=("train", "val", "test"), default="val", help="(default: val)")
    add_reporting(command, repeats=5)


def _add_queue_policy(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_queue_policy)
    add = command.add_argument
    add("--rate", type=positive(float), default=15.0, help="requests/s to each model (default: 15)")
    add("--duration-s", type=positive(float), default=60.0, help="(default: 60)")
    add_output(command)


def _add_activations(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_activations, check=True)
    add = command.add_argument
    add("--families", nargs="+", default=("yolov8n", "yolov8s", "yolo11n"), metavar="NAME", help="as Ultralytics' yaml")
    add("--batches", type=positive(int), nargs="+", default=(1, 8, 16), metavar="N", help="(default: 1 8 16)")
    add("--json", type=Path, metavar="FILE", help="write every figure there too")


def _add_fleet(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_fleet)
    add = command.add_argument
    add("--weights", type=Path, required=True)
    add("--precision", default="fp16", help="(default: fp16)")
    add("--gpus", nargs="+", default=["t4", "l4", "a10"], metavar="GPU", help="(default: t4 l4 a10)")
    add_reporting(command, repeats=3)


def _add_clients(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_clients)
    add = command.add_argument
    add("--model", required=True, metavar="NAME", help="a model of the repository, served by its configs/cpu.pbtxt")
    add("--repository", type=Path, default=DEFAULT_REPOSITORY)
    add(
        "--parts",
        nargs="+",
        choices=("work", "throughput", "restarts", "cameras"),
        default=("work", "throughput", "restarts"),
        help="what to measure (default: work throughput restarts)",
    )
    add("--frames", type=positive(int), default=100, help="of each way to send them in each turn (default: 100)")
    add("--duration-s", type=positive(float), default=5.0, help="of each throughput in each turn (default: 5)")
    add("--settle-s", type=positive(float), default=1.0, help="before each, not counted (default: 1)")
    add("--kills", type=positive(int), default=20, metavar="N", help="of the server under load (default: 20)")
    add(
        "--perf-analyzer",
        type=Path,
        metavar="FILE",
        help="compare with this program's throughput (default: with benchmarks/closed_loop.py)",
    )
    add("--cameras", type=positive(int), default=16, metavar="N", help="full HD videos in real time (default: 16)")
    add("--minutes", type=positive(float), default=10.0, metavar="M", help="of the cameras (default: 10)")
    add(
        "--share",
        type=positive(float),
        default=0.9,
        help="of what can be answered, what the cameras give (default: 0.9)",
    )
    add_reporting(command, repeats=3)


def _add_reference(command: argparse.ArgumentParser) -> None:
    command.set_defaults(run=_reference)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_measuring(command: argparse.ArgumentParser, *, repeats: int) -> None:
    add = command.add_argument
    add("--images", type=Path, nargs="+", default=(), help="pictures, cycled (default: the two of Ultralytics)")
    add_reporting(command, repeats=repeats)


def _overhead(arguments: argparse.Namespace) -> int:
    from benchmarks.overhead import OverheadOptions, measure_overhead

    options = OverheadOptions(
        model=arguments.model,
        repository=arguments.repository,
        images=tuple(arguments.images),
        repeats=arguments.repeats,
        duration_s=arguments.duration_s,
        settle_s=arguments.settle_s,
    )
    return reported(arguments, lambda: measure_overhead(options, arguments.argv, progress))


def _versus(arguments: argparse.Namespace) -> int:
    from benchmarks.versus_ultralytics import VersusOptions, measure_versus

    options = VersusOptions(
        weights=arguments.weights,
        images=tuple(arguments.images),
        repeats=arguments.repeats,
        calls=arguments.calls,
    )
    return reported(arguments, lambda: measure_versus(options, arguments.argv, progress))


def _evaluation(arguments: argparse.Namespace) -> int:
    from benchmarks import evaluation

    return reported(arguments, lambda: evaluation.run(arguments, progress))


def _queue_policy(arguments: argparse.Namespace) -> int:
    from benchmarks.queue_policy import measure_queue_policy

    return reported(
        arguments,
        lambda: measure_queue_policy(arguments.rate, arguments.duration_s, arguments.argv, progress),
    )


def _fleet(arguments: argparse.Namespace) -> int:
    from benchmarks.fleet import measure_fleet

    return reported(
        arguments,
        lambda: measure_fleet(
            arguments.weights,
            arguments.precision,
            arguments.gpus,
            arguments.repeats,
            argv=arguments.argv,
            progress=progress,
        ),
    )


def _activations(arguments: argparse.Namespace) -> int:
    """Exit code 1 where an estimate is too far off: it is the builder's error, not this machine's."""
    from benchmarks.activations import measure_activations

    families, batches = tuple(arguments.families), tuple(arguments.batches)
    code = reported(arguments, lambda: measure_activations(families, batches, arguments.argv, progress))
    return int(code != 0)


def _clients(arguments: argparse.Namespace) -> int:
    from benchmarks.clients import ClientsOptions, Part, measure_clients

    options = ClientsOptions(
        model=arguments.model,
        repository=arguments.repository,
        parts=frozenset(map(Part, arguments.parts)),
        repeats=arguments.repeats,
        frames=arguments.frames,
        duration_s=arguments.duration_s,
        settle_s=arguments.settle_s,
        kills=arguments.kills,
        perf_analyzer=arguments.perf_analyzer,
        cameras=arguments.cameras,
        minutes=arguments.minutes,
        share=arguments.share,
    )
    return reported(arguments, lambda: measure_clients(options, arguments.argv, progress))


def _reference(arguments: argparse.Namespace) -> int:
    from benchmarks.reference import write_reference

    path = write_reference(arguments.out)
    print(path)
    print(f"build it: python -m builder build --weights {path} --name yolo11n")
    return 0
