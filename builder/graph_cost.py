"""What a served graph costs, from its ONNX file alone: multiply-adds, weights, traffic, and the memory of activations.

The rules are those that runtimes share, and where they differ the one that needs more memory:

- Constants are folded when the graph is loaded: no step, no buffer.
- Reshape, Squeeze, Unsqueeze, Flatten and Identity are views of their input's buffer.
- An elementwise operator works in place where its input has the same size and nothing reads it later; so an activation
  after a convolution (ReLU, Sigmoid) makes no buffer. SiLU does: x * sigmoid(x) needs x while sigmoid(x) is made.
  onnxruntime does not fuse it into the convolution, and TensorRT-RTX's engines take as much as if they did not.
- A DequantizeLinear is read as the quantized tensor by the layer behind it, and a QuantizeLinear that is the only
  reader of a tensor is done by the layer before it: the tensor exists in its quantized size alone.
- Inputs and outputs of the graph are not counted: whoever runs it brings their buffers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from builder.buffers import Buffer, live_bytes, placed_bytes
from builder.errors import ExportError
from builder.graph_tensors import GraphTensors, graph_tensors

if TYPE_CHECKING:
    import onnx

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
# fmt: off
ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mish",
    "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus",
    "Sqrt", "Sub", "Tanh", "Where",
})
# fmt: on


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphCost:
    """What one graph costs; per image where it says so."""

    multiply_adds: int
    """Of Conv, ConvTranspose, MatMul and Gemm, per image; Ultralytics' FLOPs are twice this."""
    fp32_share: float
    """The part of them that is in FP32, 0 to 1."""
    weight_bytes: int
    """Constants as a runtime keeps them: after folding, INT8 weights in one byte and their scales beside them."""
    layers: int
    """How many Conv, ConvTranspose, MatMul and Gemm there are."""
    traffic_bytes: int
    """Activations read and written per image, elementwise operators fused into what makes their input."""
    unsized_tensors: int
    """Whose size depends on the data, so that they count as nothing."""
    buffers: tuple[Buffer, ...] = field(repr=False)
    """Of the tensors between the graph's inputs and its outputs."""

    @property
    def gflops(self) -> float:
        """10^9 floating-point operations per image, two for each multiply-add."""
        return 2 * self.multiply_adds / 1e9

    def activation_bytes(self, batch: int) -> int:
        """The block that holds all tensors between inputs and outputs, buffers used again when nothing reads them."""
        return placed_bytes(self.buffers, batch)

    def live_activation_bytes(self, batch: int) -> int:
        """The most of it that is needed at one time; the rest of the block are gaps."""
        return live_bytes(self.buffers, batch)


def graph_cost(path: Path) -> GraphCost:
    """What the graph at ``path`` costs.

    A graph that fixes its batch has the memory of that batch at every batch, and a share of its work per image.

    Raises:
        ExportError: the file is no ONNX graph, or a layer's size is not known.
    """
    one, two = graph_tensors(path, 1), graph_tensors(path, 2)
    images = one.fixed_batch or 1
    runtime = _Runtime(one)
    work = [(_multiply_adds(node, one), node) for node in runtime.steps if node.op_type in LAYERS]
    total = sum(each for each, _ in work)
    in_fp32 = sum(each for each, node in work if runtime.bits(node.input[0]) >= 32)
    return GraphCost(
        multiply_adds=total // images,
        fp32_share=in_fp32 / total if total else 0.0,
        weight_bytes=sum(one[name].bytes for name in runtime.weights()),
        layers=len(work),
        traffic_bytes=sum(_traffic(runtime)) // images,
        unsized_tensors=sum(one[name].shape is None for node in runtime.steps for name in node.output if name),
        buffers=tuple(_buffers(runtime, _Runtime(two))),
    )


class _Runtime:
    """A graph as a runtime executes it: constants folded, quantizers fused."""

    def __init__(self, graph: GraphTensors) -> None:
        self.graph = graph
        self.steps = [node for node in graph.nodes if not all(graph[name].constant for name in node.output if name)]
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.steps:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.source = {name: node for node in graph.nodes for name in node.output}

    def flowing(self, node: onnx.NodeProto) -> list[str]:
        """The inputs of a step that are no constants."""
        return [name for name in dict.fromkeys(node.input) if name and not self.graph[name].constant]

    def stored(self, name: str) -> str:
        """The tensor that is in memory for ``name``: the quantized one, where that is all that is read or written."""
        source = self.source.get(name)
        if source is not None and source.op_type == DEQUANTIZE:
            return self.stored(source.input[0])
        readers = self.readers.get(name, [])
        if len(readers) == 1 and readers[0].op_type == QUANTIZE and name not in self.graph.outputs:
            return str(readers[0].output[0])
        return name

    def bytes(self, name: str) -> int:
        """What a tensor takes."""
        return self.graph[self.stored(name)].bytes

    def bits(self, name: str) -> int:
        """Of an element of what a layer multiplies."""
        return self.graph[self.stored(name)].element_bits

    def weights(self) -> set[str]:
        """The constants that steps read, in the form in which they are kept."""
        names = {name for node in self.steps for name in node.input if name and self.graph[name].constant}
        kept: set[str] = set()
        while names:
            name = names.pop()
            source = self.source.get(name)
            if source is not None and source.op_type == DEQUANTIZE:
                names.update(each for each in source.input if each)
            else:
                kept.add(name)
        return kept


def _multiply_adds(node: onnx.NodeProto, graph: GraphTensors) -> int:
    """Elements of the output x what is summed up for each; of a ConvTranspose, elements of the input x its kernel."""
    result, first, second = (graph[name].shape for name in (node.output[0], node.input[0], node.input[1]))
    if result is None or first is None or second is None:
        raise ExportError(f"{node.op_type} {node.name}: its size depends on the data, so its cost is not known.")
    if node.op_type == "Conv":
        return math.prod(result) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(result) * first[0 if transposed else -1]


def _traffic(runtime: _Runtime) -> Iterator[int]:
    """Bytes that each step reads and writes."""
    made_with: dict[str, str] = {}
    """The tensor whose pass over memory makes this one too."""
    for node in runtime.steps:
        flowing = runtime.flowing(node)
        origins = list(dict.fromkeys(made_with.get(name, name) for name in flowing))
        if node.op_type in (*VIEWS, QUANTIZE, DEQUANTIZE) or (node.op_type in ELEMENTWISE and flowing):
            for name in node.output:
                made_with[name] = origins[0] if origins else name
            yield sum(runtime.bytes(name) for name in flowing[1:] if made_with.get(name, name) != origins[0])
        else:
            yield sum(map(runtime.bytes, flowing)) + sum(runtime.bytes(name) for name in node.output if name)


def _buffers(one: _Runtime, two: _Runtime) -> Iterator[Buffer]:
    """The buffers of a graph from its sizes for one image and for two."""
    outside = {*one.graph.inputs, *one.graph.outputs}
    for name, (first_step, last_step) in _Lifetimes(one, two).by_buffer.items():
        if name not in outside:
            per_image = two.bytes(name) - one.bytes(name)
            yield Buffer(
                first_step=first_step,
                last_step=last_step,
                bytes_fixed=one.bytes(name) - per_image,
                bytes_per_image=per_image,
            )


class _Lifetimes:
    """Which tensor lies in whose buffer, and from which step to which each buffer is in use."""

    def __init__(self, one: _Runtime, two: _Runtime) -> None:
        self.one, self.two = one, two
        self.by_buffer: dict[str, tuple[int, int]] = {}
        self.buffer_of: dict[str, str] = {name: name for name in one.graph.inputs}
        self.unread = Counter(name for node in one.steps for name in one.flowing(node))
        """How many steps will still read a tensor."""
        self.tensors_in = Counter(self.buffer_of.values())
        """Of a buffer, those that will still be read."""
        for step, node in enumerate(one.steps):
            self._execute(step, node)

    def _execute(self, step: int, node: onnx.NodeProto) -> None:
        flowing = self.one.flowing(node)
        for name in filter(None, node.output):
            buffer = self._existing_buffer(node, flowing, name) or name
            self.buffer_of[name] = buffer
            self.tensors_in[buffer] += self.unread[name] > 0
            self._use(buffer, step)
        for name in flowing:
            self._use(self.buffer_of[name], step)
            self.unread[name] -= 1
            self.tensors_in[self.buffer_of[name]] -= self.unread[name] == 0

    def _use(self, buffer: str, step: int) -> None:
        self.by_buffer[buffer] = (self.by_buffer.get(buffer, (step, step))[0], step)

    def _existing_buffer(self, node: onnx.NodeProto, flowing: list[str], output: str) -> str | None:
        """The buffer of an input that the output can be in; None where it needs its own."""
        graph = self.one.graph
        if output in graph.outputs:
            return None
        if node.op_type in VIEWS or node.op_type == DEQUANTIZE:
            return self.buffer_of[flowing[0]]
        if node.op_type == QUANTIZE:
            return self.buffer_of[flowing[0]] if self.one.stored(flowing[0]) == output else None
        if node.op_type not in ELEMENTWISE:
            return None
        return next((self.buffer_of[name] for name in flowing if self._replaceable(name, output)), None)

    def _replaceable(self, name: str, output: str) -> bool:
        """Whether nothing but this step will read the input's buffer, and it has the output's size."""
        buffer = self.buffer_of[name]
        alone = self.unread[name] == 1 and self.tensors_in[buffer] == 1
        outside = buffer in self.one.graph.inputs or buffer in self.one.graph.outputs
        sizes = ((runtime.bytes(buffer), runtime.bytes(output)) for runtime in (self.one, self.two))
        return alone and not outside and all(held == needed for held, needed in sizes)
