"""``python -m benchmarks activations``: the estimate of a graph's activations, against what runtimes take for it.

The graphs are the served ones (pixels to detections) of untrained networks at 640 px, whose sizes are those of trained
ones. onnxruntime runs them in FP32, as its CPU kernels have no FP16: the bytes that are alive at one time and the block
that holds them all are held against the estimate's; see ``run_memory``. In FP16 the figure is TensorRT-RTX's own: it
compiles without a GPU and says what its engine will take, activations and the scratch memory of the kernels it chose.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import environment
from benchmarks.run_memory import ALIVE, BLOCK, FIRST, run_memory_bytes
from benchmarks.tables import key_values, table
from builder.artifacts import OnnxModel, Precision
from builder.cache import tool_versions
from builder.errors import SpecError
from builder.graph_cost import graph_cost

FAMILIES = ("yolov8n", "yolov8s", "yolo11n")
BATCHES = (1, 8, 16)
IMGSZ = 640
MOST_OFF = 0.25
"""What an estimate may be off by, as a part of what was measured."""
COMPUTE_CAPABILITIES = ("7.5", "8.6")
"""TensorRT-RTX 1.7 makes the same figures for 8.0, 8.9 and 12.0 as for 8.6."""
SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure of one graph at one batch."""

    family: str
    precision: Precision
    batch: int
    what: str
    estimated_bytes: int
    measured_bytes: int
    target: bool
    """Whether the estimate must be within ``MOST_OFF`` of it."""

    @property
    def off(self) -> float:
        """The estimate's error as a part of what was measured."""
        return self.estimated_bytes / self.measured_bytes - 1

    @property
    def met(self) -> bool:
        """Whether the target is met, where it is one."""
        return not self.target or abs(self.off) <= MOST_OFF

    def cells(self) -> tuple[str, ...]:
        """Of the printed table."""
        verdict = ("yes" if self.met else "NO") if self.target else "-"
        megabytes = (f"{value / 1e6:.1f}" for value in (self.estimated_bytes, self.measured_bytes))
        return (
            f"{self.family} {self.precision}, {self.what}",
            str(self.batch),
            *megabytes,
            f"{self.off:+.1%}",
            verdict,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivationsReport:
    """All figures of one run."""

    rows: tuple[Row, ...]
    environment: dict[str, str]

    @property
    def all_met(self) -> bool:
        """Whether every target is met."""
        return all(row.met for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [dataclasses.asdict(row) | {"off": row.off, "met": row.met} for row in self.rows]
        return {"benchmark": "activations", "rows": rows, "most_off": MOST_OFF, "environment": self.environment}

    def to_text(self) -> str:
        """What is printed."""
        header = ("", "batch", "estimated MB", "measured MB", "off", f"within {MOST_OFF:.0%}")
        worst = max((abs(row.off) for row in self.rows if row.target), default=0.0)
        lines = [
            f"activations of the served graphs at {IMGSZ}x{IMGSZ}, inputs and outputs aside; MB are 10^6 bytes",
            "",
            table(header, [row.cells() for row in self.rows]),
            "",
            f"furthest off of those with a target: {worst:.1%}; target {MOST_OFF:.0%}: "
            f"{'met' if self.all_met else 'NOT MET'}",
            "",
            key_values(self.environment),
        ]
        return "\n".join(lines)


def measure_activations(
    families: Sequence[str], batches: Sequence[int], argv: Sequence[str], progress: Callable[[str], None]
) -> ActivationsReport:
    """Estimate and measure every family at every batch, one after the other.

    Raises:
        BuilderError: a graph cannot be built, or this is not Linux.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for family in families:
            graphs = served_graphs(family, Path(folder))
            for batch in batches:
                progress(f"{family}, batch {batch}")
                rows += _in_onnxruntime(family, batch, graphs[Precision.FP32])
                rows += _in_tensorrt_rtx(family, batch, graphs[Precision.FP16])
    versions = tool_versions(("onnxruntime-gpu", "onnxruntime", "tensorrt-rtx-cu13"))
    return ActivationsReport(rows=tuple(rows), environment=environment(argv, **versions))


def served_graphs(family: str, folder: Path) -> dict[Precision, OnnxModel]:
    """The served graphs of an untrained network, as a build makes them."""
    import torch
    from ultralytics.models import YOLO

    from builder.spec import BuildSpec
    from builder.stages import Stages

    torch.manual_seed(SEED)
    weights = folder / f"{family}.pt"
    try:
        YOLO(f"{family}.yaml").save(weights)
    except FileNotFoundError as e:
        raise SpecError(f"--families {family}: expected one of Ultralytics' networks, such as yolov8n: {e}") from e
    graphs = {}
    for precision in (Precision.FP32, Precision.FP16):
        asked = {"weights": weights, "precision": precision, "imgsz": IMGSZ, "cache": folder / "stages"}
        stages = Stages(spec=BuildSpec.from_sources(asked, None), weights=weights, report=lambda _: None)
        network = stages.network()
        graphs[precision] = stages.served(network if precision is Precision.FP32 else stages.converted(network))
    return graphs


def _in_onnxruntime(family: str, batch: int, graph: OnnxModel) -> Iterator[Row]:
    cost = graph_cost(graph.path)
    block = cost.activation_bytes(batch)
    for way, estimate in ((ALIVE, cost.live_activation_bytes(batch)), (BLOCK, block), (FIRST, block)):
        yield Row(
            family=family,
            precision=Precision.FP32,
            batch=batch,
            what=f"onnxruntime, {way}",
            estimated_bytes=estimate,
            measured_bytes=run_memory_bytes(graph.path, batch, way),
            target=way != FIRST,
        )


def _in_tensorrt_rtx(family: str, batch: int, graph: OnnxModel) -> Iterator[Row]:
    """Nothing where TensorRT-RTX is not installed."""
    from builder.compile_check import Outcome, check_compiles
    from builder.engine import Profile

    estimate = graph_cost(graph.path).activation_bytes(batch)
    profile = Profile(batch_min=1, batch_opt=batch, batch_max=batch)
    for capability in COMPUTE_CAPABILITIES:
        (check,) = check_compiles(graph, [capability], [profile])
        if check.outcome is Outcome.COMPILED and check.activation_bytes is not None:
            yield Row(
                family=family,
                precision=Precision.FP16,
                batch=batch,
                what=f"TensorRT-RTX's engine, SM {capability}",
                estimated_bytes=estimate,
                measured_bytes=check.activation_bytes,
                target=False,
            )
