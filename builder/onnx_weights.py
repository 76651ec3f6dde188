"""A user's ONNX file, Ultralytics' own export, becomes the network's graph."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.artifacts import NetworkModel, NetworkOutput
from builder.dynamic_batch import BatchError, prove_same, with_dynamic_batch
from builder.errors import SpecError, WeightsError
from builder.export import DEFAULT_IMGSZ, check_graph, checked_imgsz, rename, strip

if TYPE_CHECKING:
    import onnx

# What suppression in a graph is made of: how many boxes are left depends on the picture, so no batch can hold them.
_SUPPRESSION = ("NonMaxSuppression", "NonZero")


def import_onnx(
    path: Path, imgsz: tuple[int, int] | None, names: tuple[str, ...] | None, output_path: Path
) -> tuple[NetworkModel, str]:
    """Take a user's ONNX detector (Ultralytics' export, FP32) as the network's graph, and tell what was changed in it.

    A batch that the file fixes is made dynamic where that can be proven to change nothing.

    Raises:
        WeightsError: it is no ONNX file, no detector, suppresses in its graph, or its batch cannot be made dynamic.
        SpecError: ``imgsz`` or ``names`` contradict the file.
    """
    import onnx

    model = _load_onnx(path)
    metadata = {p.key: p.value for p in model.metadata_props}
    task = metadata.get("task", "detect")
    if task != "detect":
        raise WeightsError(f"{path} is a {task} model; only detection models can be built.")
    _refuse_suppression(model.graph, path)
    pixels, output = _ends(model, path)
    size = _onnx_imgsz(pixels, imgsz, metadata, path)
    for axis, pixels_count in zip((2, 3), size, strict=True):
        pixels.type.tensor_type.shape.dim[axis].dim_value = pixels_count
    rename(model.graph, {pixels.name: "pixels", output.name: "output0"})
    model.metadata_props.clear()
    strip(model)
    check_graph(model, str(path))
    shape = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    finished = len(shape) == 3 and shape[2] == 6
    stored = _literal(metadata.get("names"))
    classes = _class_count(shape, finished, stored, names, path)
    stride = max(int(metadata.get("stride", "32")), 1)
    checked_imgsz(size, stride)
    parameters = sum(math.prod(t.dims) for t in model.graph.initializer)
    batch = pixels.type.tensor_type.shape.dim[0].dim_value
    note = ""
    if batch > 0:
        model = _any_batch(model, batch, path)
        note = (
            f"{path.name} was exported for a fixed batch of {batch}; the graph now takes any batch, and gave the same "
            "results for 1, 2 and 3 pictures"
        )
    onnx.save(model, output_path)
    network = NetworkModel(
        path=output_path,
        output=NetworkOutput.DETECTIONS if finished else NetworkOutput.DECODED,
        imgsz=size,
        strides=(stride,),
        reg_max=1,
        names=names or _names(stored, classes),
        nms_free=finished,
        parameters=parameters,
    )
    return network, note


def _any_batch(model: onnx.ModelProto, batch: int, path: Path) -> onnx.ModelProto:
    """The graph with its batch free, proven to compute what it did.

    Raises:
        WeightsError: it cannot be, or does not.
    """
    free = with_dynamic_batch(model)
    try:
        prove_same(model, free)
    except BatchError as e:
        raise WeightsError(
            f"{path} was exported for a fixed batch of {batch}, and its graph cannot be made to take any batch: {e}. "
            "Export it with dynamic=True."
        ) from e
    strip(free)
    check_graph(free, str(path))
    return free


def _refuse_suppression(graph: onnx.GraphProto, path: Path) -> None:
    kinds = {node.op_type for node in _nodes(graph)}
    found = next((kind for kind in _SUPPRESSION if kind in kinds), None)
    if found:
        raise WeightsError(
            f"{path} suppresses overlapping boxes in its own graph ({found}); export it with nms=False: this project "
            "attaches its own."
        )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All of a graph, those of branches and loops too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for branch in (attribute.g, *attribute.graphs):
                yield from _nodes(branch)


def _load_onnx(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if not path.exists():
        raise WeightsError(f"no weights at {path}.")
    try:
        model = onnx.load(path)
    except (DecodeError, OSError, ValueError) as e:
        raise WeightsError(f"{path} is no readable ONNX file: {str(e).splitlines()[0]}") from e
    if not model.graph.node:
        raise WeightsError(f"{path} is no ONNX file, or an empty one.")
    return model


def _ends(model: onnx.ModelProto, path: Path) -> tuple[onnx.ValueInfoProto, onnx.ValueInfoProto]:
    """The one input (FP32 NCHW) and the one output of a detector's graph."""
    import onnx

    constants = {t.name for t in model.graph.initializer}
    inputs = [v for v in model.graph.input if v.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise WeightsError(
            f"{path} has {len(inputs)} inputs and {len(model.graph.output)} outputs; a detector has one of each."
        )
    tensor = inputs[0].type.tensor_type
    dims = tensor.shape.dim
    if len(dims) != 4 or dims[1].dim_value != 3 or tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        shape = [d.dim_value or d.dim_param or "?" for d in dims]
        raise WeightsError(
            f"{path} takes {kind} {shape}; expected FLOAT [batch, 3, height, width]. Export it with half=False."
        )
    return inputs[0], model.graph.output[0]


def _onnx_imgsz(
    pixels: onnx.ValueInfoProto, imgsz: tuple[int, int] | None, metadata: Mapping[str, str], path: Path
) -> tuple[int, int]:
    height, width = (d.dim_value for d in pixels.type.tensor_type.shape.dim[2:4])
    if height > 0 and width > 0:
        if imgsz and imgsz != (height, width):
            raise SpecError(
                f"{path} was exported for {height}x{width} pixels; --imgsz {imgsz[0]},{imgsz[1]} needs a new export."
            )
        return height, width
    stored = _literal(metadata.get("imgsz"))
    if imgsz:
        return imgsz
    if isinstance(stored, list) and len(stored) == 2:
        return int(stored[0]), int(stored[1])
    return DEFAULT_IMGSZ


def _class_count(shape: list[int], finished: bool, stored: object, names: tuple[str, ...] | None, path: Path) -> int:
    if len(shape) != 3 or (not finished and (shape[1] < 5 or shape[2] < 1)):
        raise WeightsError(
            f"{path} gives {shape}; expected Ultralytics' detector: [batch, 4 + classes, anchors] or [batch, N, 6]."
        )
    if finished:
        known = names or (tuple(stored) if isinstance(stored, dict | list) else None)
        if not known:
            raise WeightsError(f"{path} gives finished detections and names no classes; add --names.")
        return len(known)
    classes = shape[1] - 4
    for origin, given in (("--names", names), ("its metadata", stored)):
        if given and len(given) != classes:  # type: ignore[arg-type]
            raise SpecError(f"{origin} gives {len(given)} names, {path} has {classes} classes.")  # type: ignore[arg-type]
    return classes


def _names(stored: object, classes: int) -> tuple[str, ...]:
    if isinstance(stored, dict):
        return tuple(str(stored[key]) for key in sorted(stored))
    if isinstance(stored, list):
        return tuple(str(name) for name in stored)
    return tuple(str(i) for i in range(classes))


def _literal(text: str | None) -> Any:
    try:
        return ast.literal_eval(text) if text else None
    except (ValueError, SyntaxError):
        return None
