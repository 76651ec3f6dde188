"""``python -m benchmarks evaluation``: an evaluation, from files to figures, against the graph alone on its images.

The graph alone is the same compiled graph in the same process with as many callers; its inputs are letterboxed already.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Spread, ratios
from benchmarks.machine import OtherLoad, environment, other_load_text
from benchmarks.tables import key_values, table
from builder.accuracy import evaluate
from builder.dataset import DataSplit, read_split
from builder.detectors import GraphDetector, graph_detector
from builder.errors import DataError
from clients.errors import ImageError
from clients.images import read_image
from clients.letterbox import letterbox

REQUIRED = 1.3
"""The most time of an evaluation, as a ratio to the graph alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationTimes:
    """All figures of one run."""

    weights: str
    imgsz: tuple[int, int]
    images: int
    map50_95: float
    alone_s: tuple[float, ...]
    """Of the graph alone on all images, in each turn."""
    evaluation_s: tuple[float, ...]
    """Of reading labels and images, the graph, and the figures, in each turn."""
    ratio: Spread
    """Time of the evaluation / time of the graph alone in the same turn."""
    other_cpu_share: float
    """See ``machine.OtherLoad``."""
    environment: dict[str, str]

    @property
    def all_met(self) -> bool:
        """Whether the target is met."""
        return self.ratio.median <= REQUIRED

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"benchmark": "evaluation", **dataclasses.asdict(self), "required": REQUIRED, "met": self.all_met}

    def to_text(self) -> str:
        """What is printed."""
        height, width = self.imgsz
        rows = (("the graph alone", self.alone_s), ("evaluation, files to figures", self.evaluation_s))
        cells = [
            (
                name,
                f"{spread.median:.2f}",
                f"{spread.median / self.images * 1e3:.2f}",
                f"{spread.lowest:.2f}-{spread.highest:.2f}",
            )
            for name, spread in ((name, Spread.of(seconds)) for name, seconds in rows)
        ]
        lines = [
            f"{self.weights} at {height}x{width}, {self.images} images, {len(self.alone_s)} turns, in one process",
            other_load_text(self.other_cpu_share),
            "",
            table(("", "s", "ms per image", "range s"), cells),
            "",
            f"evaluation / the graph alone: {self.ratio}; target at most {REQUIRED:.2f}: "
            f"{'met' if self.all_met else 'NOT MET'}; mAP50-95 {self.map50_95:.3f}",
            "",
            key_values(self.environment),
        ]
        return "\n".join(lines)


def run(arguments: argparse.Namespace, progress: Callable[[str], None]) -> EvaluationTimes:
    """Measure ``arguments.repeats`` turns; ``arguments.argv`` is the command line.

    Raises:
        BuilderError: the weights or the data are at fault.
    """
    data = read_split(arguments.data, arguments.split)
    detector = graph_detector(_graph(arguments, progress))
    inputs = _inputs(data, detector)
    score = evaluate(data, detector).map50_95
    alone_s, evaluation_s = [], []
    others = OtherLoad(os.getpid())
    for turn in range(arguments.repeats):
        alone_s.append(_timed(lambda: _alone(detector, inputs)))
        evaluation_s.append(_timed(lambda: evaluate(read_split(arguments.data, arguments.split), detector)))
        progress(f"turn {turn + 1} of {arguments.repeats}")
    return EvaluationTimes(
        weights=arguments.weights.name,
        imgsz=detector.size_hw,
        images=len(inputs),
        map50_95=score,
        alone_s=tuple(alone_s),
        evaluation_s=tuple(evaluation_s),
        ratio=ratios(evaluation_s, alone_s),
        other_cpu_share=others.share(),
        environment=environment(arguments.argv),
    )


def _graph(arguments: argparse.Namespace, progress: Callable[[str], None]) -> Path:
    from builder.spec import BuildSpec
    from builder.stages import Stages
    from builder.weights import find_weights

    flags = {"weights": arguments.weights, "precision": "fp32", "max_batch": 1}
    spec = BuildSpec.from_sources(flags | ({"imgsz": arguments.imgsz} if arguments.imgsz else {}), None)
    stages = Stages(
        spec=spec, weights=find_weights(spec.weights), report=lambda stage: progress(f"build: {stage.name}")
    )
    return stages.served(stages.network()).path


def _inputs(data: DataSplit, detector: GraphDetector) -> list[NDArray[np.uint8]]:
    try:
        return [letterbox(read_image(image.path), detector.size_hw)[0] for image in data.images]
    except ImageError as e:
        raise DataError(f"expected images that can all be read: {e}") from e


def _alone(detector: GraphDetector, inputs: list[NDArray[np.uint8]]) -> None:
    with ThreadPoolExecutor(detector.workers) as pool:
        for _ in pool.map(detector.infer, inputs):
            pass


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
