"""The network's graph at the precision that was asked for; the precision lives in the graph (strongly typed)."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
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


def convert_precision(
    network: NetworkModel, precision: Precision, pixels_BCHW: NDArray[np.float32], output_path: Path
) -> NetworkModel:
    """Write the network's graph at ``precision``.

    Args:
        network: the graph in FP32.
        precision: FP32 copies the graph; FP16 converts it with ModelOpt's AutoCast.
        pixels_BCHW: FP32 [B, 3, H, W] in [0, 1], real images; AutoCast leaves in FP32 what overflows on them.
        output_path: the file to write.

    Raises:
        ExportError: AutoCast fails, or its graph is not valid.
    """
    if precision is Precision.FP32:
        shutil.copyfile(network.path, output_path)
        return replace(network, path=output_path)
    import numpy as np
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision

    # A decoded output holds pixel coordinates, and FP16 is off by half a pixel beyond 512.
    keep = tail_nodes(onnx.load(network.path)) if network.output is not NetworkOutput.LOGITS else []
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        calibration = Path(scratch) / "calibration.npz"
        np.savez(calibration, pixels=pixels_BCHW)
        try:
            model = convert_to_mixed_precision(
                str(network.path),
                low_precision_type="fp16",
                nodes_to_exclude=[f"^{re.escape(name)}$" for name in keep] or None,
                keep_io_types=True,
                calibration_data=str(calibration),
                providers=["cpu"],
            )
        except Exception as e:  # AutoCast raises whatever its parts raise
            raise ExportError(f"the network cannot be converted to FP16 by AutoCast: {str(e).splitlines()[0]}") from e
    strip(model)
    check_graph(model, output_path.name)
    onnx.save(model, output_path)
    return replace(network, path=output_path)


def tail_nodes(model: onnx.ModelProto) -> list[str]:
    """The nodes after the last convolutions: those from which no convolution but DFL's fixed one is reachable."""
    consumers: dict[str, list[int]] = {}
    for i, node in enumerate(model.graph.node):
        for name in node.input:
            consumers.setdefault(name, []).append(i)
    weights = {t.name: t for t in model.graph.initializer}

    def is_convolution(node: onnx.NodeProto) -> bool:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
            return False
        # DFL's convolution has one output channel and the weights 0, 1, 2, ...: decoding, not network.
        return len(node.input) < 2 or node.input[1] not in weights or weights[node.input[1]].dims[0] != 1

    leads_to_convolution: list[bool] = [False] * len(model.graph.node)
    for i in reversed(range(len(model.graph.node))):  # ONNX graphs are sorted
        after = [j for name in model.graph.node[i].output for j in consumers.get(name, [])]
        leads_to_convolution[i] = any(leads_to_convolution[j] or is_convolution(model.graph.node[j]) for j in after)
    return [
        node.name for i, node in enumerate(model.graph.node) if not leads_to_convolution[i] and not is_convolution(node)
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """AutoCast reports every step and sets its own log level; what matters comes as an exception."""
    logging.disable(logging.WARNING)
    try:
        with Path(os.devnull).open("w") as sink, contextlib.redirect_stdout(sink):
            yield
    finally:
        logging.disable(logging.NOTSET)
