"""The Q/DQ pairs of a graph: which of them stay, their scales, and weights that are stored as INT8."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from builder.histograms import LEVELS

if TYPE_CHECKING:
    import onnx

# FP16 scales below it have too few digits; what is that small changes no result.
_SMALLEST_SCALE = 2.0**-18
# What passes its input's values on: a quantized tensor in front of it serves the layer behind it.
_TRANSPARENT = frozenset(
    {"Add", "Concat", "MaxPool", "AveragePool", "Resize", "Split", "Slice", "Reshape", "Transpose"}
    | {"QuantizeLinear", "DequantizeLinear"}
)
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def activation_quantizers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The QuantizeLinear nodes of what is computed, not of what is stored."""
    constants = _constants(model)
    return [n for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] not in constants]


def _constants(model: onnx.ModelProto) -> set[str]:
    names = {t.name for t in model.graph.initializer}
    # Ultralytics' untrained layers share their zeros: the exporter writes Identity nodes of one initializer.
    for node in model.graph.node:
        if node.op_type == "Constant" or (node.op_type == "Identity" and node.input[0] in names):
            names.update(node.output)
    return names


def concatenated(model: onnx.ModelProto) -> list[list[str]]:
    """Sets of quantized activations that one Concat joins, its own output among them where that is quantized."""
    quantized = {q.input[0] for q in activation_quantizers(model)}
    source = {n.output[0]: n for n in model.graph.node}
    sets: list[set[str]] = []
    for node in model.graph.node:
        if node.op_type != "Concat" or node.output[0] not in quantized:
            continue
        joined = {node.output[0]}
        for name in node.input:
            quantizer = _quantizer_behind(name, source)
            if quantizer is not None:
                joined.add(quantizer.input[0])
        if len(joined) > 1:
            overlapping = [each for each in sets if not each.isdisjoint(joined)]
            sets = [each for each in sets if each.isdisjoint(joined)] + [joined.union(*overlapping)]
    return [sorted(each) for each in sets]


def _quantizer_behind(name: str, source: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The QuantizeLinear of the Q/DQ pair that gives the tensor ``name``."""
    node = source.get(name)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    quantizer = source.get(node.input[0])
    return quantizer if quantizer is not None and quantizer.op_type == "QuantizeLinear" else None


def release(model: onnx.ModelProto, nodes: set[str], tensors: set[str]) -> None:
    """Take the quantizers off the inputs of ``nodes`` and off ``tensors``, then those that serve no layer any more."""
    source = {name: n for n in model.graph.node for name in n.output}

    def bypass(consumers: Iterable[onnx.NodeProto], drop: Callable[[onnx.NodeProto, onnx.NodeProto], bool]) -> None:
        for consumer in consumers:
            for i, name in enumerate(consumer.input):
                quantizer = _quantizer_behind(name, source)
                if quantizer is not None and drop(consumer, quantizer):
                    consumer.input[i] = quantizer.input[0]

    bypass(model.graph.node, lambda consumer, q: consumer.name in nodes or q.input[0] in tensors)
    # A layer with one input in FP16 computes in FP16: its other quantizer would only cost accuracy.
    half = {
        n.name
        for n in model.graph.node
        if n.op_type in _WEIGHTED and len({_quantizer_behind(name, source) is None for name in n.input[:2]}) > 1
    }
    bypass(model.graph.node, lambda consumer, q: consumer.name in half)
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    serves: dict[str, bool] = {}

    def serves_layer(name: str) -> bool:
        if name not in serves:
            serves[name] = any(
                _quantizer_behind(name, source) is not None
                if n.op_type in _WEIGHTED
                else n.op_type in _TRANSPARENT and any(serves_layer(o) for o in n.output)
                for n in consumers.get(name, [])
            )
        return serves[name]

    idle = {q.input[0] for q in activation_quantizers(model) if not serves_layer(q.output[0])}
    bypass(model.graph.node, lambda consumer, q: q.input[0] in idle)
    _prune(model)


def _prune(model: onnx.ModelProto) -> None:
    """Remove the nodes and constants that no output needs."""
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):  # ONNX graphs are sorted
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(node.input)
    constants = [t for t in model.graph.initializer if t.name in needed]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(kept))
    model.graph.initializer.extend(constants)


def set_scales(model: onnx.ModelProto, limits: Mapping[str, float]) -> None:
    """Write every activation's scale, and none too small for FP16 among the weights'."""
    import numpy as np
    from onnx import numpy_helper

    activations = {q.input[1]: limits[q.input[0]] for q in activation_quantizers(model)}
    scales = {n.input[1] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            if tensor.name in activations:
                values = np.full_like(values, activations[tensor.name] / (LEVELS - 1))
            tensor.CopyFrom(numpy_helper.from_array(np.maximum(values, np.float32(_SMALLEST_SCALE)), tensor.name))


def store_weights(model: onnx.ModelProto) -> None:
    """Hold quantized weights as INT8 where they were quantized as the graph runs."""
    import numpy as np
    from onnx import numpy_helper

    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    stored: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] not in tensors:
            continue
        weights, scales = (tensors[name].astype(np.float32) for name in node.input[:2])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if scales.size > 1:
            scales = scales.reshape([-1 if i == axis else 1 for i in range(weights.ndim)])
        levels = np.clip(np.rint(weights / scales), 1 - LEVELS, LEVELS - 1).astype(np.int8)
        model.graph.initializer.append(numpy_helper.from_array(levels, node.output[0]))
        stored[node.name] = node.output[0]
    kept = [node for node in model.graph.node if node.name not in stored]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    _prune(model)
