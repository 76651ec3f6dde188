"""``python -m builder memory``: what weights will take of each GPU, and how many instances and cameras fit."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import MemoryBudgetError, SpecError

if TYPE_CHECKING:
    from builder.artifacts import OnnxModel
    from builder.capacity import Capacity
    from builder.gpus import GpuTarget
    from builder.graph_cost import GraphCost
    from builder.spec import BuildSpec

DEFAULT_BATCH, DEFAULT_INSTANCES, DEFAULT_FPS = 8, 2, 10.0


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    add = command.add_argument
    add("--weights", type=Path, required=True, help=".pt or .onnx")
    add("--gpu", action="append", dest="gpus", metavar="NAME", help="may be repeated; see gpus (default: t4)")
    add("--batch", "--max-batch", dest="max_batch", type=int, default=DEFAULT_BATCH, help="largest (default: 8)")
    add("--instances", type=int, default=DEFAULT_INSTANCES, help="on each GPU (default: 2)")
    add("--precision", default="fp16", help="fp32 or fp16 (default: fp16)")
    add("--imgsz", metavar="PX|H,W", help="input size (default: what the weights were trained at, else 640)")
    add("--fps", type=_frame_rate, default=DEFAULT_FPS, help="frames a second of each camera (default: 10)")
    add("--model", metavar="YAML", help="the network of a bare state_dict, such as yolo11n.yaml")
    add("--names", metavar="A,B,…", help="class names, where the weights hold none")
    add("--trust-weights", action="store_true", help="unpickle the checkpoint as it is; it can run any code")
    add("--cache", type=Path, help="where finished stages are kept; a build goes on from them")
    add("--json", action="store_true", help="print the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the table on stdout; exit code 1 where a GPU cannot hold what was asked for.

    Raises:
        BuilderError: the request or the weights are at fault.
    """
    from builder.capacity import capacity
    from builder.gpus import find_gpu
    from builder.graph_cost import graph_cost
    from builder.memory import check_fits

    gpus = {gpu.name: gpu for gpu in map(find_gpu, arguments.gpus or ["t4"])}
    spec = _spec(arguments)
    batch, instances = arguments.max_batch, arguments.instances
    model = _served(spec)
    cost = graph_cost(model.path)
    found = {
        name: capacity(cost, model, gpu, batch=batch, instances=instances, fps=arguments.fps)
        for name, gpu in gpus.items()
    }
    if arguments.json:
        print(json.dumps(_plain(cost, found, arguments.fps), indent=2))
    else:
        print("\n".join([*_head(spec, cost, model), "", *_table(gpus, found, arguments.fps), "", *_notes(gpus, found)]))
    refused = 0
    for gpu in gpus.values():
        try:
            check_fits(cost, model, gpu, batch=batch, instances=instances)
        except MemoryBudgetError as e:
            refused += 1
            print(f"error: {e}", file=sys.stderr)
    return int(refused > 0)


def _frame_rate(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _spec(arguments: argparse.Namespace) -> BuildSpec:
    """The build that this would be, as far as it matters here."""
    from builder.spec import BuildSpec

    if arguments.precision.strip() == "int8":
        raise SpecError(
            "--precision int8: expected fp32 or fp16; an INT8 graph is known when it has been calibrated, by build, "
            "whose manifest holds its memory. It takes less than fp16: plan with that."
        )
    names = ("weights", "max_batch", "instances", "precision", "imgsz", "model", "names", "trust_weights", "cache")
    given = {name: getattr(arguments, name) for name in names}
    return BuildSpec.from_sources({name: value for name, value in given.items() if value is not None}, None)


def _served(spec: BuildSpec) -> OnnxModel:
    """The graph that a build would serve, by the stages that a build takes it from."""
    from builder.artifacts import Precision
    from builder.console import show_progress, stage_line
    from builder.stages import Stages
    from builder.weights import find_weights

    # Ultralytics logs to stdout, which is the table's.
    with contextlib.redirect_stdout(sys.stderr):
        stages = Stages(
            spec=spec,
            weights=find_weights(spec.weights),
            report=lambda stage: print(stage_line(stage), file=sys.stderr, flush=True),
            progress=show_progress,
        )
        network = stages.network()
        return stages.served(network if spec.precision is Precision.FP32 else stages.converted(network))


def _head(spec: BuildSpec, cost: GraphCost, model: OnnxModel) -> list[str]:
    (images,) = model.inputs
    size = "x".join(map(str, images.shape))
    return [
        f"{spec.weights.name}, {spec.precision}, {images.dtype} {size}: {cost.gflops:.1f} GFLOPs an image, "
        f"{cost.layers} layers with weights or matrix products",
        f"batch {spec.max_batch}, estimated from the graph; MB are 10^6 bytes",
    ]


def _table(gpus: Mapping[str, GpuTarget], found: Mapping[str, Capacity], fps: float) -> list[str]:
    (instances,) = {each.budget.instances for each in found.values()}
    rows: list[tuple[str, Callable[[Capacity], str]]] = [
        ("weights, MB", lambda c: _mb(c.budget.weight_bytes)),
        ("inputs, MB", lambda c: _mb(c.budget.input_bytes)),
        ("outputs, MB", lambda c: _mb(c.budget.output_bytes)),
        ("activations, MB", lambda c: _mb(c.budget.activation_bytes)),
        ("workspace at most, MB", lambda c: _mb(c.budget.workspace_bytes)),
        ("one instance, MB", lambda c: _mb(c.budget.instance_bytes)),
        (f"all {instances}, MB", lambda c: _mb(c.budget.total_bytes)),
        ("of the GPU's, MB", lambda c: _mb(c.budget.capacity_bytes)),
        ("free", lambda c: f"{c.budget.free_share:.0%}"),
        ("instances that fit", lambda c: str(c.instances)),
        ("a full batch, ms", lambda c: _or_unknown(c.batch_ms, ".1f")),
        ("images/s", lambda c: _or_unknown(c.images_per_s, ".0f")),
        ("streams by memory", lambda c: str(c.streams_by_memory)),
        (f"streams by time at {fps:g} FPS", lambda c: _or_unknown(c.streams_by_time, "d")),
        ("streams that fit", lambda c: _or_unknown(c.streams, "d")),
        ("what binds", lambda c: c.bound_by or "?"),
    ]
    lines = [["", *gpus], *([name, *map(cell, found.values())] for name, cell in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _notes(gpus: Mapping[str, GpuTarget], found: Mapping[str, Capacity]) -> list[str]:
    from builder.capacity import STREAM_BUFFERS
    from builder.memory import KEPT_FREE

    notes = [
        f"What fits is with {KEPT_FREE:.0%} of the memory and of the time kept free, for the CUDA context, Triton, a "
        "second version while it loads, and for peaks. Each instance is counted with weights of its own.",
        f"A stream is counted with {STREAM_BUFFERS} inputs and {STREAM_BUFFERS} outputs in the GPU's memory, as with "
        "CUDA shared memory; by any other way its frames wait in the host's memory.",
        "Times are estimates from the graph's size, without transfers: measure before anything depends on them.",
    ]
    if any(each.batch_ms is None for each in found.values()):
        notes.append("?: not known, as the GPU's FP16 peak is not, the network is in FP32, or it does not fit.")
    shared = [name for name, gpu in gpus.items() if gpu.pcie_gen is None and gpu.slice_of is None]
    if shared:
        notes.append(f"{', '.join(shared)}: the memory is the processor's too; what that takes is not counted.")
    tight = [name for name, each in found.items() if each.budget.fits and not each.budget.roomy]
    if tight:
        notes.append(f"warning: {', '.join(tight)}: less than {KEPT_FREE:.0%} stay free.")
    return notes


def _plain(cost: GraphCost, found: Mapping[str, Capacity], fps: float) -> dict[str, Any]:
    graph = {
        "multiply_adds": cost.multiply_adds,
        "layers": cost.layers,
        "weight_bytes": cost.weight_bytes,
        "traffic_bytes": cost.traffic_bytes,
    }
    gpus = {name: each.to_json() for name, each in found.items()}
    return {"measured": False, "fps": fps, "graph": graph, "gpus": gpus}


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f}"


def _or_unknown(value: float | None, how: str) -> str:
    return "?" if value is None else format(value, how)
