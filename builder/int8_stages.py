"""The stages that make a network INT8: it is calibrated once, and quantized as often as other layers are given back."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.artifacts import NetworkModel, Precision
from builder.cache import Stage, code_sha256, tool_versions
from builder.data_identity import split_identity
from builder.stages import (
    IMAGE_CODE,
    IMAGE_TOOLS,
    NETWORK_FILE,
    PRECISION_TOOLS,
    RUNTIME_TOOLS,
    Stages,
    network_identity,
)

if TYPE_CHECKING:
    from builder.quantization import Calibration

QUANTIZATION_CODE = (
    *IMAGE_CODE,
    "parity",
    "int8_stages",
    "data_identity",
    "quantization",
    "quantizers",
    "histograms",
    "layers",
    "precision",
    "export",
    "calibration",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """A network in INT8."""

    network: NetworkModel
    int8_share: float
    """Of the convolutions' multiply-adds."""


class Int8Stages:
    """One build's network and its calibration."""

    def __init__(self, stages: Stages, original: NetworkModel) -> None:
        """Nothing is done yet; ``original`` is the network in FP32."""
        self.stages, self.spec, self.original = stages, stages.spec, original

    @functools.cached_property
    def calibrated(self) -> Stage:
        """The quantizers and the histograms that their scales are made from.

        Raises:
            DataError: the images are missing, wrong, or too few.
        """
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
            "images": split_identity(images),
            "count": spec.calibration_images,
            "seed": spec.seed,
            "code": code_sha256(QUANTIZATION_CODE),
            "tools": tool_versions((*PRECISION_TOOLS, *IMAGE_TOOLS)),
        }
        return self.stages.run("calibration", inputs, make)

    def quantized(self, exclude: tuple[str, ...]) -> Quantized:
        """The network's graph in INT8, with these groups of layers in FP16."""

        def make(folder: Path) -> dict[str, Any]:
            made = self.quantize(exclude, folder / NETWORK_FILE)
            return {"network": made.network.to_json(), "int8_share": round(made.int8_share, 4)}

        stage = self.stages.run("precision", self.inputs() | {"exclude": exclude}, make)
        network = NetworkModel.from_json(stage.result["network"], stage.folder / NETWORK_FILE)
        return Quantized(network=network, int8_share=stage.result["int8_share"])

    def quantize(self, exclude: tuple[str, ...], output_path: Path, rest: Precision = Precision.FP16) -> Quantized:
        """The same written to ``output_path``, kept in no cache; what is given back has the precision of the rest."""
        from builder.layers import quantized_share
        from builder.quantization import quantize

        network = quantize(
            self.original,
            self._calibration,
            self.stages.pixels(self.original.imgsz),
            output_path,
            method=self.spec.calibration_method,
            exclude=exclude,
            rest=rest,
        )
        return Quantized(network=network, int8_share=quantized_share(network.path))

    def inputs(self) -> dict[str, Any]:
        """What a quantized graph depends on, but for the groups that are given back."""
        return {
            "network": network_identity(self.original),
            "precision": Precision.INT8,
            "calibration": self.calibrated.result,
            "method": self.spec.calibration_method,
            "images": self.stages.image_hashes(),
            "code": code_sha256(QUANTIZATION_CODE),
            "tools": tool_versions((*PRECISION_TOOLS, *RUNTIME_TOOLS)),
        }

    @functools.cached_property
    def _calibration(self) -> Calibration:
        from builder.quantization import Calibration

        return Calibration.load(self.calibrated.folder)
