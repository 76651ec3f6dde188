"""The tensors of an ONNX graph for one batch: their types, their sizes, and which of them are constants.

ONNX's own inference over a whole graph stops where a dynamic graph computes sizes by division, as YOLO's channel splits
do. Here each node is inferred after its inputs, and arithmetic on sizes is carried out on the way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.errors import ExportError

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

# Sizes, axes and slices are small integers; nothing larger is worth computing.
_MOST_COMPUTED_ELEMENTS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """One tensor of a graph."""

    shape: tuple[int, ...] | None
    """None where it depends on the data."""
    element_bits: int
    constant: bool
    """A weight, or what a runtime folds into one when it loads the graph."""

    @property
    def bytes(self) -> int:
        """Its size; 0 where the shape depends on the data."""
        return 0 if self.shape is None else (math.prod(self.shape) * self.element_bits + 7) // 8


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphTensors:
    """A graph and its tensors by name."""

    nodes: tuple[onnx.NodeProto, ...]
    """In execution order: ONNX demands that a node comes after its inputs."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: dict[str, Tensor]
    fixed_batch: int | None
    """The batch that the graph itself fixes."""

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of that name."""
        return self.tensors[name]


def graph_tensors(path: Path, batch: int) -> GraphTensors:
    """The tensors of the graph at ``path`` for ``batch`` images; a batch that the graph fixes stands.

    Raises:
        ExportError: the file is no ONNX graph, or a node of it reads what nothing makes.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
    except (DecodeError, OSError, ValueError) as e:
        raise ExportError(f"{path} is no readable ONNX graph: {str(e).splitlines()[0]}") from e
    if not model.graph.node:
        raise ExportError(f"{path} is no ONNX graph, or an empty one.")
    return tensors_of(model, batch)


def tensors_of(model: onnx.ModelProto, batch: int) -> GraphTensors:
    """The tensors of ``model`` for ``batch`` images, which it keeps; a batch that the graph fixes stands.

    Raises:
        ExportError: a node of it reads what nothing makes.
    """
    walk = _Walk(model, batch)
    for node in model.graph.node:
        walk.visit(node)
    return GraphTensors(
        nodes=tuple(model.graph.node),
        inputs=tuple(v.name for v in model.graph.input if not walk.tensors[v.name].constant),
        outputs=tuple(v.name for v in model.graph.output),
        tensors=walk.tensors,
        fixed_batch=walk.fixed_batch,
    )


class _Walk:
    """Types and known values of what has been visited."""

    def __init__(self, model: onnx.ModelProto, batch: int) -> None:
        import onnx

        self.opsets = {each.domain: each.version for each in model.opset_import}
        self.opset_imports, self.ir_version = list(model.opset_import), model.ir_version
        self.types: dict[str, onnx.TypeProto] = {}
        self.values: dict[str, NDArray[Any]] = {}
        self.tensors: dict[str, Tensor] = {}
        self.fixed_batch: int | None = None
        for initializer in model.graph.initializer:
            kind = onnx.helper.make_tensor_type_proto(initializer.data_type, initializer.dims)
            self._keep(initializer.name, kind, constant=True)
            if math.prod(initializer.dims) <= _MOST_COMPUTED_ELEMENTS:
                self.values[initializer.name] = onnx.numpy_helper.to_array(initializer)
        for value in model.graph.input:
            if value.name in self.tensors:
                continue
            dims = value.type.tensor_type.shape.dim
            if dims and dims[0].dim_value > 0:
                self.fixed_batch = dims[0].dim_value
            elif dims:
                dims[0].dim_value = batch
            self._keep(value.name, value.type, constant=False)

    def visit(self, node: onnx.NodeProto) -> None:
        """Infer one node's outputs, and compute them where they are small and known."""
        given = [name for name in node.input if name]
        for name in given:
            if name not in self.tensors:
                raise ExportError(f"{node.op_type} {node.name} reads {name}, which nothing before it makes.")
        # A Shape is known without what flows through the graph; what a branch reads is not among the node's inputs.
        branches = any(attribute.HasField("g") for attribute in node.attribute)
        constant = node.op_type == "Shape" or (not branches and all(self.tensors[name].constant for name in given))
        types = self._infer(node, given)
        values = self._compute(node, given) if constant else None
        for position, name in enumerate(node.output):
            if not name:
                continue
            self._keep(name, types.get(name), constant=constant)
            if values is not None:
                self.values[name] = values[position]

    def _infer(self, node: onnx.NodeProto, given: list[str]) -> dict[str, onnx.TypeProto]:
        import onnx

        try:
            schema = onnx.defs.get_schema(node.op_type, self.opsets[node.domain], node.domain)
            return dict(
                onnx.shape_inference.infer_node_outputs(
                    schema,
                    node,
                    {name: self.types[name] for name in given if name in self.types},
                    {name: onnx.numpy_helper.from_array(self.values[name]) for name in given if name in self.values},
                    opset_imports=self.opset_imports,
                    ir_version=self.ir_version,
                )
            )
        except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, KeyError):
            return {}  # a plugin's node, say: what it gives has no known size

    def _compute(self, node: onnx.NodeProto, given: list[str]) -> list[NDArray[Any]] | None:
        import numpy as np
        from onnx.reference import ReferenceEvaluator

        if node.op_type == "Shape":
            shape = self.tensors[node.input[0]].shape
            axes = {a.name: a.i for a in node.attribute}
            return None if shape is None else [np.array(shape[axes.get("start") : axes.get("end")], np.int64)]
        if any(name not in self.values for name in given):
            return None
        try:
            evaluator = ReferenceEvaluator(node, opsets=self.opsets)
        except NotImplementedError:
            return None  # a plugin's node
        results = evaluator.run(None, {name: self.values[name] for name in given})
        arrays = [np.asarray(result) for result in results]
        return arrays if all(array.size <= _MOST_COMPUTED_ELEMENTS for array in arrays) else None

    def _keep(self, name: str, kind: onnx.TypeProto | None, *, constant: bool) -> None:
        import onnx

        if kind is None or not kind.tensor_type.elem_type:
            self.tensors[name] = Tensor(shape=None, element_bits=0, constant=constant)
            return
        self.types[name] = kind
        tensor = kind.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
        known = tensor.HasField("shape") and None not in dims
        self.tensors[name] = Tensor(
            shape=tuple(dim for dim in dims if dim is not None) if known else None,
            element_bits=_bits(onnx.TensorProto.DataType.Name(tensor.elem_type)),
            constant=constant,
        )


def _bits(kind: str) -> int:
    """Of one element, by the number in ONNX's name of the type: FLOAT16, INT8, UINT4."""
    named = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8, "BFLOAT16": 16, "STRING": 0}
    digits = "".join(character for character in kind.removeprefix("BFLOAT").split("E")[0] if character.isdigit())
    return named.get(kind) or int(digits or 0)
