"""The network's graph at the precision that was asked for; the precision lives in the graph (strongly typed)."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from builder.artifacts import NetworkModel, NetworkOutput, Precision
from builder.errors import ExportError
from builder.export import check_graph, strip

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

_ACTIVATIONS = frozenset(
    {"Sigmoid", "Mul", "Relu", "LeakyRelu", "HardSwish", "HardSigmoid", "Clip", "Gelu", "Identity"}
)


def convert_precision(
    network: NetworkModel, precision: Precision, pixels_BCHW: NDArray[np.float32], output_path: Path
) -> NetworkModel:
    """Write the network's graph at ``precision``.

    Args:
        network: the graph in FP32.
        precision: FP32 copies the graph; FP16 converts it with ModelOpt's AutoCast. INT8 is ``quantization.quantize``.
        pixels_BCHW: FP32 [B, 3, H, W] in [0, 1], real images; AutoCast leaves in FP32 what overflows on them.
        output_path: the file to write.

    Raises:
        ExportError: AutoCast fails, or its graph is not valid.
    """
    if precision is Precision.FP32:
        shutil.copyfile(network.path, output_path)
        return replace(network, path=output_path)
    import onnx

    # A decoded output holds pixel coordinates, and FP16 is off by half a pixel beyond 512.
    keep = tail_nodes(onnx.load(network.path)) if network.output is not NetworkOutput.LOGITS else []
    model = autocast(network.path, keep, pixels_BCHW)
    strip(model)
    check_graph(model, output_path.name)
    onnx.save(model, output_path)
    return replace(network, path=output_path)


def autocast(path: Path, keep: Sequence[str], pixels_BCHW: NDArray[np.float32]) -> onnx.ModelProto:
    """The graph in FP16 by ModelOpt's AutoCast, its ends and the nodes named in ``keep`` in FP32.

    Raises:
        ExportError: AutoCast fails.
    """
    import numpy as np
    from modelopt.onnx.autocast import convert_to_mixed_precision

    with tempfile.TemporaryDirectory() as scratch, quiet():
        calibration = Path(scratch) / "calibration.npz"
        np.savez(calibration, pixels=pixels_BCHW)
        try:
            model: onnx.ModelProto = convert_to_mixed_precision(
                str(path),
                low_precision_type="fp16",
                nodes_to_exclude=[f"^{re.escape(name)}$" for name in keep] or None,
                keep_io_types=True,
                calibration_data=str(calibration),
                providers=["cpu"],
            )
        except Exception as e:  # AutoCast raises whatever its parts raise
            raise ExportError(f"the network cannot be converted to FP16 by AutoCast: {reason(e)}") from e
    return model


def tail_nodes(model: onnx.ModelProto) -> list[str]:
    """The nodes after the last convolutions: those from which no convolution but DFL's fixed one is reachable."""
    leads_on, convolution = _leads_to_convolution(model), _convolutions(model)
    return [n.name for i, n in enumerate(model.graph.node) if not leads_on[i] and not convolution[i]]


def end_convolutions(model: onnx.ModelProto) -> list[str]:
    """The network's first convolutions, which read its input, and its last, whose output no other convolution reads."""
    leads_on, convolution = _leads_to_convolution(model), _convolutions(model)
    follows: set[str] = set()  # tensors with a convolution somewhere before them
    ends = []
    for i, node in enumerate(model.graph.node):
        after = not follows.isdisjoint(node.input)
        if convolution[i] and not (after and leads_on[i]):
            ends.append(node.name)
        if after or convolution[i]:
            follows.update(node.output)
    return ends


def separable_convolutions(model: onnx.ModelProto) -> list[str]:
    """Depthwise convolutions, and the pointwise ones that read them, past their activation alone."""
    shapes = {t.name: t.dims for t in model.graph.initializer}
    convolution = _convolutions(model)
    depthwise: set[str] = set()  # tensors
    found = []
    for i, node in enumerate(model.graph.node):
        reads = not depthwise.isdisjoint(node.input)
        if convolution[i]:
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            channels, inputs, *kernel = shapes.get(node.input[1], [0, 0])
            if groups > 1 and groups == channels and inputs == 1:
                depthwise.update(node.output)
                found.append(node.name)
            elif reads and set(kernel) == {1}:
                found.append(node.name)
        elif reads and node.op_type in _ACTIVATIONS:
            depthwise.update(node.output)
    return found


def _leads_to_convolution(model: onnx.ModelProto) -> list[bool]:
    """For each node whether a convolution comes somewhere after it."""
    consumers: dict[str, list[int]] = {}
    for i, node in enumerate(model.graph.node):
        for name in node.input:
            consumers.setdefault(name, []).append(i)
    convolution = _convolutions(model)
    leads_on: list[bool] = [False] * len(model.graph.node)
    for i in reversed(range(len(model.graph.node))):  # ONNX graphs are sorted
        after = [j for name in model.graph.node[i].output for j in consumers.get(name, [])]
        leads_on[i] = any(leads_on[j] or convolution[j] for j in after)
    return leads_on


def _convolutions(model: onnx.ModelProto) -> list[bool]:
    """For each node whether it is a convolution or a linear layer of the network."""
    channels = {t.name: t.dims[0] for t in model.graph.initializer if t.dims}
    return [
        # DFL's convolution has one output channel and the weights 0, 1, 2, ...: decoding, not network.
        node.op_type in ("Conv", "ConvTranspose", "Gemm") and (len(node.input) < 2 or channels.get(node.input[1]) != 1)
        for node in model.graph.node
    ]


def reason(error: Exception) -> str:
    """The first line of what another library raised, or the kind of its exception."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """ModelOpt reports every step and sets its own log level; what matters comes as an exception."""
    logging.disable(logging.WARNING)
    try:
        with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink):
            yield
    finally:
        logging.disable(logging.NOTSET)
