"""A network at the precision that was asked for, and the evidence that it loses no more than it may.

    original -> calibration -> quantized -> served -> accuracy -> gate
                                  ^                              |
                                  +------- mixture --------------+   with --auto-mixed, where the gate refuses

Without labelled data only the precision is changed: FP32 and FP16 need no evidence to be built, INT8 does.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.artifacts import NetworkModel, OnnxModel, Precision
from builder.cache import Stage, code_sha256, tool_versions
from builder.errors import AccuracyError
from builder.stages import (
    IMAGE_TOOLS,
    NETWORK_FILE,
    PRECISION_TOOLS,
    RUNTIME_TOOLS,
    SERVED_FILE,
    Stages,
    network_identity,
)

if TYPE_CHECKING:
    from builder.accuracy import AccuracyReport
    from builder.dataset import DataSplit
    from builder.gate import GateLimits
    from builder.mixed import Judged, Mixture
    from builder.quantization import Calibration

REPORT_FILE = "accuracy.html"
SUBSET_IMAGES = 64
"""What a group's sensitivity is measured on."""
ACCURACY_TOOLS = ("faster-coco-eval", "openvino", "numpy", *IMAGE_TOOLS)
ACCURACY_CODE = (
    "accuracy",
    "coco",
    "comparison",
    "detectors",
    "gate",
    "matching",
    "accuracy_html",
    "charts",
    "disagreements",
    "page",
    "labels",
    "dataset",
    "runtimes",
    "proof",
)
QUANTIZATION_CODE = ("quantization", "histograms", "layers", "precision", "export", "calibration")


@dataclass(frozen=True, kw_only=True, slots=True)
class Proven:
    """What goes into a version, and why it may."""

    network: NetworkModel
    model: OnnxModel
    quantization: dict[str, Any] | None = None
    """How INT8 was made, plain values."""
    accuracy: dict[str, Any] | None = None
    """What was measured on the labelled data, plain values; None without such data."""
    report: Path | None = None
    """The same as a page."""


def judging_data(path: Path) -> DataSplit:
    """The labelled images of a data.yaml's val split.

    Raises:
        DataError: they are missing or wrong, or no object is labelled on them.
    """
    from builder.accuracy import check_labelled
    from builder.dataset import read_split

    data = read_split(path, "val")
    check_labelled(data)
    return data


def prove(stages: Stages, original: NetworkModel, data: DataSplit | None) -> Proven:
    """The network at the spec's precision and its served graph, judged where there is data to judge by.

    Raises:
        AccuracyError: the gate refuses it, and no mixture was asked for or none passes.
        DataError: the data is missing, wrong, of other classes, or too little to calibrate with.
    """
    spec = stages.spec
    if data is None:
        network = stages.converted(original)
        return Proven(network=network, model=stages.served(network))
    judge = _Evidence(stages, original, data)
    exclude: tuple[str, ...] = ()
    network, model, stage = judge.candidate(exclude)
    mixture = None
    if stage.result["failures"] and spec.auto_mixed:
        mixture = judge.mixture()
        network, model, stage = judge.candidate(mixture.exclude, mixture)
    if stage.result["failures"]:
        raise AccuracyError(_refusal(spec.precision, stage, asked_mixed=spec.auto_mixed))
    return Proven(
        network=network,
        model=model,
        quantization=judge.quantization(mixture) if spec.precision is Precision.INT8 else None,
        accuracy=stage.result,
        report=stage.folder / REPORT_FILE,
    )


class _Evidence:
    """One build's labelled data, and what is made and measured with it."""

    def __init__(self, stages: Stages, original: NetworkModel, data: DataSplit) -> None:
        from builder.dataset import check_names

        self.stages, self.spec, self.original, self.data = stages, stages.spec, original, data
        check_names(self.data, original.names)
        self.int8_share: float | None = None
        """Of the last ``quantized``."""

    def candidate(
        self, exclude: tuple[str, ...], mixture: Mixture | None = None
    ) -> tuple[NetworkModel, OnnxModel, Stage]:
        """The network at the spec's precision, its served graph, and the stage that judged it."""
        int8 = self.spec.precision is Precision.INT8
        network = self.quantized(exclude) if int8 else self.stages.converted(self.original)
        model = self.stages.served(network)
        return network, model, self.judged(model, mixture)

    @functools.cached_property
    def limits(self) -> GateLimits:
        """What may be lost."""
        from builder.gate import GateLimits

        return GateLimits(max_map_drop=self.spec.max_map_drop, max_confidence_drop=self.spec.max_confidence_drop)

    @functools.cached_property
    def reference_model(self) -> OnnxModel:
        """The served graph in FP32."""
        return self.stages.served(self.original)

    @functools.cached_property
    def reference(self) -> AccuracyReport:
        """What FP32 reaches."""
        return self._evaluate(self.reference_model.path, self.data, "FP32 on")

    @functools.cached_property
    def calibration_stage(self) -> Stage:
        """The quantizers and the histograms that their scales are made from."""
        from builder.dataset import read_data

        spec = self.spec
        assert spec.data is not None
        images = read_data(spec.calibration or spec.data, "train")

        def make(folder: Path) -> dict[str, Any]:
            from builder.calibration import calibration_batches, choose_calibration
            from builder.quantization import calibrate

            chosen = choose_calibration(images, self.original.imgsz, spec.calibration_images, spec.seed)
            for problem in chosen.unreadable:
                print(f"warning: not calibrated with: {problem}", file=sys.stderr)
            total = len(chosen.images)
            calibrate(
                self.original,
                calibration_batches(chosen),
                folder,
                lambda done: self.stages.progress("calibrating", done, total),
            )
            return {"images": total, "sha256": chosen.sha256, "unreadable": len(chosen.unreadable)}

        inputs = {
            "network": network_identity(self.original),
            "images": _split_identity(images),
            "count": spec.calibration_images,
            "seed": spec.seed,
            "code": code_sha256(QUANTIZATION_CODE),
            "tools": tool_versions((*PRECISION_TOOLS, *IMAGE_TOOLS)),
        }
        return self.stages.run("calibration", inputs, make)

    @functools.cached_property
    def calibration(self) -> Calibration:
        """What ``quantize`` takes."""
        from builder.quantization import Calibration

        return Calibration.load(self.calibration_stage.folder)

    def quantized(self, exclude: tuple[str, ...]) -> NetworkModel:
        """The network's graph in INT8."""

        def make(folder: Path) -> dict[str, Any]:
            from builder.layers import quantized_share
            from builder.quantization import quantize

            pixels = self.stages.pixels(self.original.imgsz)
            network = quantize(
                self.original,
                self.calibration,
                pixels,
                folder / NETWORK_FILE,
                method=self.spec.calibration_method,
                exclude=exclude,
            )
            return {"network": network.to_json(), "int8_share": round(quantized_share(network.path), 4)}

        stage = self.stages.run("precision", self._quantization_inputs() | {"exclude": exclude}, make)
        self.int8_share = stage.result["int8_share"]
        return NetworkModel.from_json(stage.result["network"], stage.folder / NETWORK_FILE)

    def judged(self, model: OnnxModel, mixture: Mixture | None) -> Stage:
        """Both graphs' accuracy, what is lost, and where the gate refuses it."""

        def make(folder: Path) -> dict[str, Any]:
            from builder.accuracy_html import write_html
            from builder.comparison import compare

            candidate = self._evaluate(model.path, self.data, f"{self.spec.precision} on")
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
                facts=self._facts(),
            )
            return {
                "failures": failures,
                "limits": dataclasses.asdict(self.limits),
                "labels_sha256": _labels_sha256(self.data),
                "reference": _rounded(self.reference.to_json()),
                "candidate": _rounded(candidate.to_json()),
                "comparison": _rounded(comparison.to_json()),
            }

        inputs = {
            "graphs": [self.reference_model.sha256, model.sha256],
            "data": _split_identity(self.data),
            "limits": dataclasses.asdict(self.limits),
            "mixture": mixture.to_json() if mixture else None,
            "facts": self._facts(),
            "title": [self.spec.model_name, self.spec.precision],
            "code": code_sha256(ACCURACY_CODE),
            "tools": tool_versions(ACCURACY_TOOLS),
        }
        return self.stages.run("accuracy", inputs, make)

    def mixture(self) -> Mixture:
        """The groups that are given back to FP16.

        Raises:
            AccuracyError: no mixture passes.
        """
        from builder.layers import candidate_groups
        from builder.mixed import Mixture, find_mixture

        groups = candidate_groups(self.quantized(()).path)

        def make(_: Path) -> dict[str, Any]:
            step = max(1, len(self.data.images) // SUBSET_IMAGES)
            subset = dataclasses.replace(self.data, images=self.data.images[::step][:SUBSET_IMAGES])
            subset_reference = self._evaluate(self.reference_model.path, subset, "FP32 on the subset,")
            return find_mixture(
                groups,
                lambda exclude: self._judge(exclude, subset, subset_reference, Precision.FP32),
                lambda exclude: self._judge(exclude, self.data, self.reference, Precision.FP16),
                self.limits,
                lambda done, total: self.stages.progress("mixtures tried", done, total),
            ).to_json()

        inputs = self._quantization_inputs() | {
            "head": repr(self.stages.head_spec(self.original)),
            "data": _split_identity(self.data),
            "limits": dataclasses.asdict(self.limits),
            "search": code_sha256(("mixed", *ACCURACY_CODE)),
            "accuracy": tool_versions(ACCURACY_TOOLS),
        }
        return Mixture.from_json(self.stages.run("mixture", inputs, make).result)

    def quantization(self, mixture: Mixture | None) -> dict[str, Any]:
        """How the INT8 graph was made."""
        return {
            "method": self.spec.calibration_method,
            "calibration": self.calibration_stage.result | {"seed": self.spec.seed},
            "int8_share": self.int8_share,
            "given_back": list(mixture.exclude) if mixture else [],
            "mixture": _rounded(mixture.to_json()) if mixture else None,
        }

    def _judge(self, exclude: tuple[str, ...], data: DataSplit, reference: AccuracyReport, rest: Precision) -> Judged:
        """A mixture's accuracy, its graph thrown away."""
        from builder.comparison import compare
        from builder.head import attach_head
        from builder.layers import quantized_share
        from builder.mixed import Judged
        from builder.quantization import quantize

        with tempfile.TemporaryDirectory() as scratch:
            network = quantize(
                self.original,
                self.calibration,
                self.stages.pixels(self.original.imgsz),
                Path(scratch) / NETWORK_FILE,
                method=self.spec.calibration_method,
                exclude=exclude,
                rest=rest,
            )
            share = quantized_share(network.path)
            served = Path(scratch) / SERVED_FILE
            attach_head(network, self.stages.head_spec(network), served)
            report = self._evaluate(served, data, "a mixture on")
        return Judged(comparison=compare(reference, report), map50_95=report.map50_95, int8_share=share)

    def _evaluate(self, graph: Path, data: DataSplit, what: str) -> AccuracyReport:
        from builder.accuracy import evaluate
        from builder.detectors import graph_detector

        detect = graph_detector(graph)
        return evaluate(data, detect, progress=lambda done, total: self.stages.progress(what, done, total))

    def _quantization_inputs(self) -> dict[str, Any]:
        return {
            "network": network_identity(self.original),
            "precision": Precision.INT8,
            "calibration": self.calibration_stage.result,
            "method": self.spec.calibration_method,
            "images": self.stages.image_hashes(),
            "code": code_sha256(QUANTIZATION_CODE),
            "tools": tool_versions((*PRECISION_TOOLS, *RUNTIME_TOOLS)),
        }

    def _facts(self) -> Mapping[str, str]:
        """What the page says of the build besides the figures."""
        facts = {
            "weights": self.stages.weights.name,
            "precision": str(self.spec.precision),
            "input": "{}x{} px".format(*self.original.imgsz),
            "data": f"{self.data.source.name}, {self.data.split}",
        }
        if self.spec.precision is Precision.INT8:
            calibration = self.calibration_stage.result
            facts["calibration"] = f"{calibration['images']} images, {self.spec.calibration_method}"
        return facts


def _refusal(precision: Precision, stage: Stage, *, asked_mixed: bool) -> str:
    advice = "Calibrate with images of what the model will see (--calibration)"
    if precision is Precision.INT8 and not asked_mixed:
        advice += ", give layers back to FP16 (--auto-mixed)"
    if precision is not Precision.INT8:
        advice = "Use --precision fp32"
    return (
        f"the {precision} graph loses more accuracy than it may: {'; '.join(stage.result['failures'])}. Nothing was "
        f"published. {advice}, or raise the limit. What was measured: {stage.folder / REPORT_FILE}"
    )


def _labels_sha256(data: DataSplit) -> str:
    """A hash of the class names, the images' names and what is labelled on them."""
    digest = hashlib.sha256(json.dumps(data.names).encode())
    for image in data.images:
        digest.update(f"\n{image.path.name}".encode())
        digest.update(b"" if image.classes_N is None else image.classes_N.tobytes() + image.boxes_N4.tobytes())
    return digest.hexdigest()


def _split_identity(data: DataSplit) -> str:
    """A hash of the labels, and of each image's name, size and time: reading all images would take minutes."""
    digest = hashlib.sha256(json.dumps([data.split, data.names]).encode())
    for image in data.images:
        status = image.path.stat()
        digest.update(f"\n{image.path.name} {status.st_size} {status.st_mtime_ns}".encode())
        digest.update(b"-" if image.classes_N is None else image.classes_N.tobytes())
        digest.update(image.boxes_N4.tobytes())
    return digest.hexdigest()


def _rounded(value: Any) -> Any:
    """Floats to six decimals, in whatever holds them."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(each) for each in value]
    return value
