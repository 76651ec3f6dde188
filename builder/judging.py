"""What a graph loses against FP32 on the labelled images: the stage that measures it, and writes it down."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cache import Stage, code_sha256, tool_versions
from builder.data_identity import labels_sha256, split_identity
from builder.stages import IMAGE_CODE, IMAGE_TOOLS, Stages

if TYPE_CHECKING:
    from builder.accuracy import AccuracyReport
    from builder.artifacts import OnnxModel
    from builder.dataset import DataSplit
    from builder.gate import GateLimits
    from builder.mixed import Mixture

REPORT_FILE = "accuracy.html"
ACCURACY_TOOLS = ("faster-coco-eval", "openvino", "numpy", *IMAGE_TOOLS)
ACCURACY_CODE = (
    *IMAGE_CODE,
    "../clients/detections",
    "judging",
    "data_identity",
    "accuracy",
    "coco",
    "comparison",
    "detectors",
    "runtimes",
    "gate",
    "matching",
    "accuracy_html",
    "charts",
    "disagreements",
    "page",
    "labels",
    "dataset",
)


class Judging:
    """One build's labelled images, and FP32 as what to compare with."""

    def __init__(self, stages: Stages, reference_model: OnnxModel, data: DataSplit) -> None:
        """Nothing is measured yet; ``reference_model`` is the served graph in FP32."""
        self.stages, self.spec, self.reference_model, self.data = stages, stages.spec, reference_model, data

    @functools.cached_property
    def limits(self) -> GateLimits:
        """What may be lost."""
        from builder.gate import GateLimits

        return GateLimits(max_map_drop=self.spec.max_map_drop, max_confidence_drop=self.spec.max_confidence_drop)

    @functools.cached_property
    def reference(self) -> AccuracyReport:
        """What FP32 reaches."""
        return self.evaluate(self.reference_model.path, self.data, "FP32 on")

    def judged(self, model: OnnxModel, mixture: Mixture | None, facts: Mapping[str, str]) -> Stage:
        """Both graphs' accuracy, what is lost, and where the gate refuses it; ``facts`` go on the page."""

        def make(folder: Path) -> dict[str, Any]:
            from builder.accuracy_html import write_html
            from builder.comparison import compare

            candidate = self.evaluate(model.path, self.data, f"{self.spec.precision} on")
            comparison = compare(self.reference, candidate)
            failures = self.limits.failures(comparison)
            write_html(
                folder / REPORT_FILE,
                title=f"{self.spec.model_name}, {self.spec.precision}",
                reference=self.reference,
                candidate=candidate,
                comparison=comparison,
                limits=self.limits,
                failures=failures,
                mixture=mixture,
                facts=facts,
            )
            return {
                "failures": failures,
                "limits": dataclasses.asdict(self.limits),
                "labels_sha256": labels_sha256(self.data),
                "reference": rounded(self.reference.to_json()),
                "candidate": rounded(candidate.to_json()),
                "comparison": rounded(comparison.to_json()),
            }

        inputs = self.inputs() | {
            "graphs": [self.reference_model.sha256, model.sha256],
            "mixture": mixture.to_json() if mixture else None,
            "facts": facts,
            "title": [self.spec.model_name, self.spec.precision],
        }
        return self.stages.run("accuracy", inputs, make)

    def evaluate(self, graph: Path, data: DataSplit, what: str) -> AccuracyReport:
        """A graph's accuracy on ``data``; ``what`` is what progress says of it."""
        from builder.accuracy import evaluate
        from builder.detectors import graph_detector

        detect = graph_detector(graph)
        return evaluate(data, detect, progress=lambda done, total: self.stages.progress(what, done, total))

    def inputs(self) -> dict[str, Any]:
        """What every judgement depends on, but for the graphs."""
        return {
            "data": self._data_identity,
            "limits": dataclasses.asdict(self.limits),
            "accuracy_code": code_sha256(ACCURACY_CODE),
            "accuracy_tools": tool_versions(ACCURACY_TOOLS),
        }

    @functools.cached_property
    def _data_identity(self) -> str:
        return split_identity(self.data)


def rounded(value: Any) -> Any:
    """Floats to six decimals, in whatever holds them."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [rounded(each) for each in value]
    return value
