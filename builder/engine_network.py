"""A file of ONNX as a network of TensorRT's, and what its parser says of nodes that it refuses.

The library's module is an argument: ``builder.engine`` is the one that imports it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.engine_callbacks import without_driver_noise
from builder.errors import ExportError

if TYPE_CHECKING:
    import tensorrt  # type: ignore[import-not-found, unused-ignore]

_ASSERTION = re.compile(r'&& "(.+)"\s*$')
_QUOTED_ERRORS = 5


def parse_graph(trt: Any, network: tensorrt.INetworkDefinition, logger: tensorrt.ILogger, path: Path) -> None:
    """Read a file of ONNX into an empty network.

    Raises:
        ExportError: it is no ONNX, or the parser refuses it; the message names the nodes.
    """
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, logger)
    name = f"{path.name} cannot be read by {title(trt)}"
    if not parser.parse_from_file(str(path)):
        reasons = list(dict.fromkeys(_reason(parser.get_error(i)) for i in range(parser.num_errors)))
        more = f"; and {len(reasons) - _QUOTED_ERRORS} more" if len(reasons) > _QUOTED_ERRORS else ""
        raise ExportError(f"{name}: {'; '.join(reasons[:_QUOTED_ERRORS])}{more}. Change these layers of the network.")
    # A file that is no ONNX is read as an empty graph, and no error is given.
    if not network.num_layers or not network.num_inputs:
        raise ExportError(f"{name}: it holds no graph; expected an ONNX file.")


def _reason(error: tensorrt.ParserError) -> str:
    """One parser error: the node, and what is wrong with it."""
    kind = str(error.code()).rpartition(".")[2].lower().replace("_", " ")
    text = " ".join(without_driver_noise(error.desc()).split())
    found = _ASSERTION.search(text)
    text = found[1] if found else text
    # A checker that knows no more gives its own condition.
    detail = "" if text in ("", "false") else f": {text[:400].rstrip('.?')}"
    node = f"node {error.node_name() or error.node()} ({error.node_operator()}): " if error.node() >= 0 else ""
    return f"{node}{kind}{detail}"


def title(trt: Any) -> str:
    """The library and its version, for people."""
    return f"{'TensorRT-RTX' if trt.__name__ == 'tensorrt_rtx' else 'TensorRT'} {trt.__version__}"
