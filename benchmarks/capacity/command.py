"""``python -m benchmarks capacity``: how many GPUs of each kind a fleet of cameras needs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.reporting import add_page, as_json, check_folder, count, positive, progress, write_file
from builder.console import DEFAULT_REPOSITORY
from builder.errors import SpecError
from clients.connection_arguments import add_connection

if TYPE_CHECKING:
    from benchmarks.capacity.bounds import Graph
    from benchmarks.capacity.confirm import Confirmation
    from benchmarks.capacity.plan import CapacityPlan
    from benchmarks.capacity.request import CapacityRequest

HELP = "how many GPUs of each kind a fleet of cameras needs, what binds them, and what a simulation of it says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    _add_goal(parser)
    _add_figures(parser)
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write every figure there too")
    add_page(parser)
    add("--confirm", metavar="URL", help="send the share of one GPU to this server: grpc://HOST:PORT")
    add("--confirm-s", type=positive(float), default=30.0, help="for so long (default: 30)")
    add_connection(parser)


def _add_goal(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--streams", type=positive(int), required=True, help="cameras")
    add("--fps", type=positive(float), required=True, help="frames a second of each, in the mean of a day")
    add("--sla-ms", type=positive(float), required=True, help="within which frames are to be answered")
    add("--percentile", type=int, choices=(50, 90, 95, 99), default=99, help="of the frames (default: 99)")
    add("--redundancy", type=_from_1, default=1.5, help="factor of the formula (default: 1.5)")
    add("--peak", type=_from_1, default=1.3, help="rate of the busiest hour / the day's mean (default: 1.3)")
    add("--jitter-ms", type=_from_0, default=5.0, help="standard deviation of a camera's period (default: 5)")
    add("--reconnect-s", type=_from_0, default=1.0, help="until the cameras of a lost GPU have another (default: 1)")
    add("--frames", type=positive(int), default=40_000, help="simulated of each scenario, about (default: 40000)")
    add("--seed", type=count, default=0, help="of phases and jitter (default: 0)")


def _add_figures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--gpu",
        action="append",
        required=True,
        metavar="A,B,…",
        help="kinds, as python -m builder gpus lists them, MIG slices too; cpu: servers without one",
    )
    add(
        "--report",
        action="append",
        default=[],
        metavar="[GPU=]FILE",
        help="of benchmarks load --json on that GPU; may be repeated",
    )
    add("--throughput", action="append", default=[], metavar="[GPU=]N", help="images/s of one GPU, by hand")
    add("--model", metavar="NAME", help="estimate by this model's graph; reports must be of it")
    add("--repository", type=Path, metavar="DIR", help=f"where the model is (default: {DEFAULT_REPOSITORY})")
    add("--weights", type=Path, metavar="FILE", help="estimate by the graph that a build of them would serve")
    add("--precision", choices=("fp32", "fp16"), default="fp16", help="of --weights (default: fp16)")
    add("--imgsz", metavar="PX|H,W", help="of --weights (default: what they were trained at)")
    add("--price", action="append", default=[], metavar="GPU=N,…", help="of one hour of one GPU, in any currency")
    add("--max-batch", type=positive(int), metavar="N", help="no larger batch (default: what the goal allows)")
    add("--queue-delay-ms", type=_from_0, default=0.5, help="wait for others to share a batch (default: 0.5)")
    add(
        "--bytes-per-frame",
        type=positive(float),
        metavar="N",
        help="over network and bus, with its answer (default: the graph's own, or the contract's at 640x640)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; exit code 1 where no kind meets the goal, or the server of --confirm misses it.

    Raises:
        BuilderError: the request, a report or the model is at fault.
        ClientError: the server of --confirm cannot be reached, or is none of this project's.
    """
    from benchmarks.capacity.page import page
    from benchmarks.capacity.plan import plan
    from benchmarks.capacity.text import to_text

    for flag, path in (("--json", arguments.json), ("--html", arguments.html)):
        check_folder(flag, path)
    request = _request(arguments)
    model = _model_to_confirm(arguments, request)
    made = plan(request, progress)
    found = _confirmation(arguments, made, model)
    command = f"python -m benchmarks {shlex.join(arguments.argv)}"
    print(f"{to_text(made, found)}\n\n{command}")
    told = made.to_json() | {"confirmation": found and found.to_json(), "command": command}
    if arguments.json:
        write_file("--json", arguments.json, as_json(told))
    if arguments.html:
        write_file("--html", arguments.html, page(made, command, found))
    return 0 if made.meets and (found is None or found.holds) else 1


def _model_to_confirm(arguments: argparse.Namespace, request: CapacityRequest) -> str:
    """The model that the server of --confirm is asked for; empty without it."""
    if arguments.confirm is None:
        return ""
    if len(request.kinds) > 1:
        raise SpecError("--confirm: expected one --gpu, as the server runs on one, got several")
    report = request.kinds[0].report
    model: str | None = arguments.model or (report.model if report else None)
    if model is None:
        raise SpecError("--confirm: expected the model's name, by --model or a --report, got none")
    return model


def _confirmation(arguments: argparse.Namespace, made: CapacityPlan, model: str) -> Confirmation | None:
    from benchmarks.capacity.confirm import confirm
    from clients.connection_arguments import connection_options

    if not model or made.kinds[0].planned is None:
        return None
    progress(f"{arguments.confirm}: sending one server's share for {made.request.confirm_s:g} s")
    return confirm(made.request, made.kinds[0], arguments.confirm, model, connection_options(arguments))


def _request(arguments: argparse.Namespace) -> CapacityRequest:
    from benchmarks.capacity.request import (
        CONTRACT_BYTES,
        CapacityRequest,
        check_sources,
        check_streams,
        kinds_of,
    )

    check_streams(arguments.streams)
    kinds = kinds_of(
        arguments.gpu,
        reports=arguments.report,
        throughputs=arguments.throughput,
        prices=arguments.price,
        model=arguments.model,
    )
    graph = _graph(arguments)
    check_sources(kinds, graph)
    return CapacityRequest(
        streams=arguments.streams,
        fps=arguments.fps,
        sla_ms=arguments.sla_ms,
        percentile=arguments.percentile,
        redundancy=arguments.redundancy,
        peak=arguments.peak,
        delay_ms=arguments.queue_delay_ms,
        max_batch=arguments.max_batch,
        jitter_ms=arguments.jitter_ms,
        reconnect_s=arguments.reconnect_s,
        bytes_per_frame=arguments.bytes_per_frame or (CONTRACT_BYTES if graph is None else graph.frame_bytes),
        kinds=kinds,
        graph=graph,
        frames=arguments.frames,
        seed=arguments.seed,
        confirm_s=arguments.confirm_s,
    )


def _graph(arguments: argparse.Namespace) -> Graph | None:
    from benchmarks.capacity.graph import graph_of_weights, published_graph

    if arguments.weights is not None:
        if arguments.model is not None or arguments.repository is not None:
            raise SpecError("expected --weights or --model of --repository, got both: which graph is it to be?")
        return graph_of_weights(arguments.weights, arguments.precision, arguments.imgsz)
    if arguments.model is None:
        if arguments.repository is not None:
            raise SpecError(f"--repository {arguments.repository}: expected --model NAME with it, got none")
        return None
    return published_graph(arguments.repository or DEFAULT_REPOSITORY, arguments.model)


def _from_1(text: str) -> float:
    return _at_least(text, 1)


def _from_0(text: str) -> float:
    return _at_least(text, 0)


def _at_least(text: str, lowest: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not lowest <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number from {lowest:g}, got {text}")
    return value
