"""A network at the precision that was asked for, and the evidence that it loses no more than it may.

    original -> calibration -> quantized -> served -> accuracy -> gate
                                  ^                              |
                                  +------- mixture --------------+   with --auto-mixed, where the gate refuses

Without labelled data only the precision is changed: FP32 and FP16 need no evidence to be built, INT8 does.
"""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.artifacts import NetworkModel, OnnxModel, Precision
from builder.cache import Stage, code_sha256
from builder.errors import AccuracyError
from builder.int8_stages import Int8Stages
from builder.judging import REPORT_FILE, Judging, rounded
from builder.stages import NETWORK_FILE, SERVED_FILE, Stages

if TYPE_CHECKING:
    from builder.accuracy import AccuracyReport
    from builder.dataset import DataSplit
    from builder.mixed import Judged, Mixture

"""The page's name in a version, too."""
SUBSET_IMAGES = 64
"""What a group's sensitivity is measured on."""


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
    evidence = _Evidence(stages, original, data)
    candidate = evidence.candidate()
    if candidate.failures and spec.auto_mixed:
        candidate = evidence.candidate(evidence.mixture(candidate.network))
    if candidate.failures:
        raise AccuracyError(_refusal(spec.precision, candidate.judged, asked_mixed=spec.auto_mixed))
    return Proven(
        network=candidate.network,
        model=candidate.model,
        quantization=evidence.quantization(candidate) if spec.precision is Precision.INT8 else None,
        accuracy=candidate.judged.result,
        report=candidate.judged.folder / REPORT_FILE,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """A network at the spec's precision, and what was found of it."""

    network: NetworkModel
    model: OnnxModel
    judged: Stage
    mixture: Mixture | None
    int8_share: float | None
    """None where the precision is not INT8."""

    @property
    def failures(self) -> list[str]:
        """What the gate refuses."""
        found: list[str] = self.judged.result["failures"]
        return found


class _Evidence:
    """One build's labelled data, and what is made and measured with it."""

    def __init__(self, stages: Stages, original: NetworkModel, data: DataSplit) -> None:
        from builder.dataset import check_names

        self.stages, self.spec, self.original, self.data = stages, stages.spec, original, data
        check_names(data, original.names)
        self.int8 = Int8Stages(stages, original)

    @functools.cached_property
    def judging(self) -> Judging:
        """Of the served graphs, by the one in FP32."""
        return Judging(self.stages, self.stages.served(self.original), self.data)

    def candidate(self, mixture: Mixture | None = None) -> _Candidate:
        """The network at the spec's precision, the mixture's groups given back, and what was found of it."""
        share = None
        if self.spec.precision is Precision.INT8:
            quantized = self.int8.quantized(mixture.exclude if mixture else ())
            network, share = quantized.network, quantized.int8_share
        else:
            network = self.stages.converted(self.original)
        model = self.stages.served(network)
        judged = self.judging.judged(model, mixture, self._facts())
        return _Candidate(network=network, model=model, judged=judged, mixture=mixture, int8_share=share)

    def mixture(self, int8: NetworkModel) -> Mixture:
        """The groups of the network in INT8 that are given back to FP16.

        Raises:
            AccuracyError: no mixture passes.
        """
        from builder.mixed import Mixture, find_mixture

        def make(_: Path) -> dict[str, Any]:
            from builder.layers import candidate_groups

            step = max(1, len(self.data.images) // SUBSET_IMAGES)
            subset = dataclasses.replace(self.data, images=self.data.images[::step][:SUBSET_IMAGES])
            subset_reference = self.judging.evaluate(self.judging.reference_model.path, subset, "FP32 on the subset,")
            return find_mixture(
                candidate_groups(int8.path),
                lambda exclude: self._judge(exclude, subset, subset_reference, Precision.FP32),
                lambda exclude: self._judge(exclude, self.data, self.judging.reference, Precision.FP16),
                self.judging.limits,
                lambda done, total: self.stages.progress("mixtures tried", done, total),
            ).to_json()

        inputs = {
            **self.int8.inputs(),
            **self.judging.inputs(),
            "head": repr(self.stages.head_spec(self.original)),
            "search": code_sha256(("mixed", "proof", "head", "head_modules")),
        }
        return Mixture.from_json(self.stages.run("mixture", inputs, make).result)

    def quantization(self, candidate: _Candidate) -> dict[str, Any]:
        """How the INT8 graph was made."""
        mixture = candidate.mixture
        return {
            "method": self.spec.calibration_method,
            "calibration": self.int8.calibrated.result | {"seed": self.spec.seed},
            "int8_share": candidate.int8_share,
            "given_back": list(mixture.exclude) if mixture else [],
            "mixture": rounded(mixture.to_json()) if mixture else None,
        }

    def _judge(self, exclude: tuple[str, ...], data: DataSplit, reference: AccuracyReport, rest: Precision) -> Judged:
        """A mixture's accuracy, its graph thrown away."""
        from builder.comparison import compare
        from builder.head import attach_head
        from builder.mixed import Judged

        with tempfile.TemporaryDirectory() as scratch:
            quantized = self.int8.quantize(exclude, Path(scratch) / NETWORK_FILE, rest)
            served = Path(scratch) / SERVED_FILE
            attach_head(quantized.network, self.stages.head_spec(quantized.network), served)
            report = self.judging.evaluate(served, data, "a mixture on")
        return Judged(comparison=compare(reference, report), map50_95=report.map50_95, int8_share=quantized.int8_share)

    def _facts(self) -> Mapping[str, str]:
        """What the page says of the build besides the figures."""
        facts = {
            "weights": self.stages.weights.name,
            "precision": str(self.spec.precision),
            "input": "{}x{} px".format(*self.original.imgsz),
            "data": f"{self.data.source.name}, {self.data.split}",
        }
        if self.spec.precision is Precision.INT8:
            calibration = self.int8.calibrated.result
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
