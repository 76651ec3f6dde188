"""The convolutions of a network's graph: what they cost, which are INT8, and which groups of them may be given back."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

_MODULE = re.compile(r"/?model\.(\d+)/(?:(?:one2one_)?(cv\d\.\d+)/)?")
CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, kw_only=True, slots=True)
class Convolution:
    """One convolution of a graph."""

    name: str
    multiply_adds: int
    """For one image."""
    quantized: bool
    """Both its input and its weights come from a DequantizeLinear."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerGroup:
    """Layers that ``quantize`` can give back to FP16 together."""

    name: str
    convolutions: tuple[str, ...]
    """Those of them that are INT8."""
    multiply_adds: int
    """Of these, for one image."""
    share: float
    """Of the multiply-adds of all convolutions."""


def convolutions(path: Path) -> tuple[Convolution, ...]:
    """The convolutions of a network's graph, in its order.

    Raises:
        ExportError: the size of one's output is not known.
    """
    import onnx
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    # ONNX's own inference does not follow the arithmetic on sizes by which a dynamic graph splits its channels.
    graph = SymbolicShapeInference.infer_shapes(onnx.load(path), auto_merge=True).graph
    values = (*graph.value_info, *graph.output, *graph.input)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    shapes.update({t.name: list(t.dims) for t in graph.initializer})
    source = {name: n for n in graph.node for name in n.output}

    def dequantized(name: str) -> bool:
        return name in source and source[name].op_type == "DequantizeLinear"

    return tuple(
        Convolution(
            name=n.name,
            multiply_adds=_multiply_adds(n, shapes),
            quantized=dequantized(n.input[0]) and dequantized(n.input[1]),
        )
        for n in graph.node
        if n.op_type in CONVOLUTIONS
    )


def quantized_share(path: Path) -> float:
    """The part of the convolutions' multiply-adds that is in INT8, 0 to 1."""
    layers = convolutions(path)
    total = sum(each.multiply_adds for each in layers)
    return sum(each.multiply_adds for each in layers if each.quantized) / total if total else 0.0


def candidate_groups(path: Path) -> tuple[LayerGroup, ...]:
    """The groups of a quantized graph's INT8 convolutions, in its order: Ultralytics' modules, the head's by branch.

    In a graph whose nodes have other names, every convolution is a group.
    """
    layers = convolutions(path)
    total = sum(each.multiply_adds for each in layers)
    members: dict[str, list[Convolution]] = {}
    for each in layers:
        if each.quantized:
            members.setdefault(layer_group(each.name), []).append(each)
    return tuple(
        LayerGroup(
            name=name,
            convolutions=tuple(each.name for each in group),
            multiply_adds=sum(each.multiply_adds for each in group),
            share=sum(each.multiply_adds for each in group) / total,
        )
        for name, group in members.items()
    )


def layer_group(node: str) -> str:
    """The group that a node belongs to, by its name: ``model.4`` of ``/model.4/m.0/cv1/conv/Conv``."""
    match = _MODULE.match(node)
    if match is None:
        return node
    module, branch = match.groups()
    return f"model.{module}.{branch}" if branch else f"model.{module}"


def _multiply_adds(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    """Output positions x output channels x input channels of a group x kernel, for one image."""
    output, weight = shapes.get(node.output[0], []), shapes.get(node.input[1], [])
    positions, kernel = output[2:], weight[1:]
    if node.op_type == "ConvTranspose":
        # Its weights are [inputs, outputs of a group, kernel], and it is the input's positions that are multiplied.
        positions, kernel = shapes.get(node.input[0], [])[2:], weight[1:]
        output = [0, weight[0]] if weight else []
    if not positions or not kernel or 0 in positions or 0 in kernel:
        raise ExportError(f"the output of {node.name} has no known size: {output}.")
    return output[1] * math.prod(positions) * math.prod(kernel)
