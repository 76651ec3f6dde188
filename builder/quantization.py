"""The network's graph in INT8: where quantization goes is ModelOpt's choice, its ranges are measured here.

``calibrate`` is slow and done once. ``quantize`` takes seconds and may be called many times on one calibration, with
other methods and with other layers given back to FP16. ModelOpt's own entropy calibration is not used: it sorts values
into 128 bins and then looks for the best 128 levels of them, so that it clips next to nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder.artifacts import NetworkModel, NetworkOutput, Precision
from builder.errors import ExportError
from builder.export import check_graph, strip
from builder.histograms import (
    CalibrationMethod,
    Histogram,
    collect_histograms,
    covered_range,
    load_histograms,
    save_histograms,
)
from builder.layers import layer_group
from builder.precision import autocast, end_convolutions, quiet, reason, separable_convolutions, tail_nodes
from builder.quantizers import activation_quantizers, concatenated, release, set_scales, store_weights

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

DEFAULT_METHOD = CalibrationMethod.MSE
"""On the sample it loses 0.002 mAP50-95 where entropy loses 0.019: entropy clips the rare large values, which weigh
nothing among so many, but are what boxes and confidences are made from."""
_PLACED, _HISTOGRAMS, _CONCATENATED = "placed.onnx", "histograms.npz", "concatenated.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A network's quantizers without their scales, and the histograms that scales are made from."""

    placed: Path
    """The graph with Q/DQ pairs, FP32 between them; their activation scales mean nothing yet."""
    histograms: Mapping[str, Histogram]
    """By the name of the activation."""
    concatenated: tuple[tuple[str, ...], ...]
    """Activations that share a scale: TensorRT then joins them without converting."""

    @classmethod
    def load(cls, folder: Path) -> Calibration:
        """What ``calibrate`` wrote into ``folder``."""
        return cls(
            placed=folder / _PLACED,
            histograms=load_histograms(folder / _HISTOGRAMS),
            concatenated=tuple(map(tuple, json.loads((folder / _CONCATENATED).read_text()))),
        )


def calibrate(
    network: NetworkModel,
    batches: Iterable[NDArray[np.float32]],
    folder: Path,
    progress: Callable[[int], None] = lambda images: None,
) -> Calibration:
    """Place the quantizers and measure on every batch what their ranges are made from.

    Args:
        network: the graph in FP32.
        batches: FP32 [B, 3, H, W] in [0, 1]; see ``calibration.calibration_batches``.
        folder: where the three files of the result are written; the same inputs give the same bytes.
        progress: called after each batch with the number of images that are done.

    Raises:
        ExportError: ModelOpt cannot quantize the network.
        DataError: no images came, or an activation is not finite on them.
    """
    import onnx

    model = _place(network)
    onnx.save(model, folder / _PLACED)
    tensors = [q.input[0] for q in activation_quantizers(model)]
    save_histograms(collect_histograms(network.path, tensors, batches, progress), folder / _HISTOGRAMS)
    (folder / _CONCATENATED).write_text(json.dumps(concatenated(model), indent=1))
    return Calibration.load(folder)


def quantize(
    network: NetworkModel,
    calibration: Calibration,
    pixels_BCHW: NDArray[np.float32],
    output_path: Path,
    *,
    method: CalibrationMethod = DEFAULT_METHOD,
    exclude: Sequence[str] = (),
    rest: Precision = Precision.FP16,
) -> NetworkModel:
    """Write the network's graph in INT8, weights per channel, symmetric throughout.

    The first convolution, the last ones of the head, depthwise convolutions with the pointwise ones behind them, and
    what attention multiplies stay at the precision of the rest.

    Args:
        network: the graph in FP32.
        calibration: of this network.
        pixels_BCHW: FP32 [B, 3, H, W] in [0, 1], real images; AutoCast leaves in FP32 what overflows on them.
        output_path: the file to write; the same inputs give the same bytes.
        method: how ranges are chosen.
        exclude: names of groups (see ``layers.candidate_groups``) that are given back to the precision of the rest.
        rest: FP16, or FP32 to save the conversion's seconds where only accuracy is compared.

    Raises:
        ExportError: a group is unknown, or the graph cannot be converted.
    """
    import onnx

    model = onnx.load(calibration.placed)
    groups = {layer_group(node.name) for node in model.graph.node}
    if unknown := set(exclude) - groups:
        raise ExportError(f"no layers are called {', '.join(sorted(unknown))} in this network.")
    limits = {name: covered_range(histogram, method) for name, histogram in calibration.histograms.items()}
    for names in calibration.concatenated:
        limits.update(dict.fromkeys(names, max(limits[name] for name in names)))
    excluded = {node.name for node in model.graph.node if layer_group(node.name) in exclude}
    # An activation that was never anything but zero has no range to be measured.
    release(model, excluded, {name for name, limit in limits.items() if limit == 0})
    set_scales(model, limits)
    if rest is Precision.FP16:
        keep = tail_nodes(onnx.load(network.path)) if network.output is not NetworkOutput.LOGITS else []
        with tempfile.TemporaryDirectory() as scratch:
            onnx.save(model, Path(scratch) / "scaled.onnx")
            model = autocast(Path(scratch) / "scaled.onnx", keep, pixels_BCHW)
    store_weights(model)
    strip(model)
    check_graph(model, output_path.name)
    onnx.save(model, output_path)
    return replace(network, path=output_path)


def _place(network: NetworkModel) -> onnx.ModelProto:
    """The graph with ModelOpt's Q/DQ pairs, FP32 and without meaningful activation scales."""
    import numpy as np
    import onnx
    from modelopt.onnx.quantization.calib_utils import CalibrationDataProvider
    from modelopt.onnx.quantization.int8 import quantize as place

    original = onnx.load(network.path)
    for i, node in enumerate(original.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    constants = {t.name for t in original.graph.initializer}
    # Quantized attention is no faster, on GPUs (fused in FP16) or CPUs (yolo11n in bf16: 23.6 ms, not 21.1).
    attention = [n.name for n in original.graph.node if n.op_type == "MatMul" and constants.isdisjoint(n.input)]
    # One scale for channels that are computed apart is coarse: they are 3.5 % of the sample's multiply-adds, and give
    # two thirds of what its confidences lose.
    keep = {*end_convolutions(original), *separable_convolutions(original), *attention}
    if network.output is not NetworkOutput.LOGITS:
        keep.update(tail_nodes(original))
    shape = f"pixels:1x3x{network.imgsz[0]}x{network.imgsz[1]}"
    with tempfile.TemporaryDirectory() as scratch, quiet():
        path = str(Path(scratch) / "network.onnx")
        onnx.save(original, path)
        # Its scales are all replaced: one grey image does.
        grey = np.full((1, 3, *network.imgsz), 0.5, np.float32)
        try:
            model: onnx.ModelProto = place(
                path,
                "max",
                CalibrationDataProvider(path, grey, shape),
                calibration_shapes=shape,
                calibration_eps=["cpu"],
                nodes_to_exclude=sorted(keep),
                high_precision_dtype="fp32",
                log_level="ERROR",
            )
        except Exception as e:  # ModelOpt raises whatever its parts raise
            raise ExportError(f"the network cannot be quantized by ModelOpt: {reason(e)}") from e
    if not activation_quantizers(model):
        raise ExportError("ModelOpt finds nothing to quantize in this network; build it with --precision fp16.")
    strip(model)
    return model
