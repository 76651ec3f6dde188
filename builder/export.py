"""Weights become the network's ONNX graph: pixels in, the raw head out, dynamic batch, static size."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.artifacts import NetworkModel, NetworkOutput
from builder.errors import ExportError, SpecError, WeightsError

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

    from builder.weights import Network

OPSET = 17
DEFAULT_IMGSZ = (640, 640)


def export_network(network: Network, imgsz: tuple[int, int] | None, output_path: Path) -> NetworkModel:
    """Write the graph of a PyTorch network up to its last convolutions; decoding belongs to the head.

    Raises:
        SpecError: imgsz is not a multiple of the largest stride.
        ExportError: the network has a layer that ONNX cannot express.
    """
    import copy

    import torch

    size = checked_imgsz(imgsz or network.trained_imgsz or DEFAULT_IMGSZ, max(network.strides))
    module: Any = copy.deepcopy(network.module)
    head = module.model[-1]
    branch = head.one2one if network.nms_free else head.one2many

    def forward(levels: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        raw = head.forward_head(levels, **branch)
        return raw["boxes"], raw["scores"]

    head.forward = forward
    # Batch normalisation is folded into its convolution; the head's unused branch goes with the other outputs.
    module.fuse(verbose=False)
    branch = head.one2one if network.nms_free else head.one2many
    export_module(module, {"pixels": torch.zeros(2, 3, *size)}, ("boxes", "scores"), output_path)
    return NetworkModel(
        path=output_path,
        output=NetworkOutput.LOGITS,
        imgsz=size,
        strides=network.strides,
        reg_max=network.reg_max,
        names=network.names,
        nms_free=network.nms_free,
        parameters=sum(p.numel() for p in network.module.parameters()),
        key_mismatches=network.keys.describe(),
    )


def import_onnx(
    path: Path, imgsz: tuple[int, int] | None, names: tuple[str, ...] | None, max_batch: int, output_path: Path
) -> NetworkModel:
    """Take a user's ONNX detector (Ultralytics' export, FP32) as the network's graph.

    Raises:
        WeightsError: it is no ONNX file, no detector, or has no dynamic batch.
        SpecError: ``imgsz`` or ``names`` contradict the file.
    """
    import onnx

    model = _load_onnx(path)
    metadata = {p.key: p.value for p in model.metadata_props}
    task = metadata.get("task", "detect")
    if task != "detect":
        raise WeightsError(f"{path} is a {task} model; only detection models can be built.")
    pixels, output = _ends(model, path)
    size = _onnx_imgsz(pixels, imgsz, metadata, path)
    batch = pixels.type.tensor_type.shape.dim[0]
    if batch.dim_value > 0 and max_batch > batch.dim_value:
        raise WeightsError(
            f"{path} was exported for a fixed batch of {batch.dim_value}, --max-batch is {max_batch}; export it with "
            f"dynamic=True, or give --max-batch {batch.dim_value}."
        )
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
    onnx.save(model, output_path)
    stride = max(int(metadata.get("stride", "32")), 1)
    return NetworkModel(
        path=output_path,
        output=NetworkOutput.DETECTIONS if finished else NetworkOutput.DECODED,
        imgsz=checked_imgsz(size, stride),
        strides=(stride,),
        reg_max=1,
        names=names or _names(stored, classes),
        nms_free=finished,
        parameters=sum(_elements(t.dims) for t in model.graph.initializer),
    )


def checked_imgsz(imgsz: tuple[int, int], stride: int) -> tuple[int, int]:
    """``imgsz`` (height, width) itself where both sides are multiples of the stride.

    Raises:
        SpecError: they are not; it names the nearest size that fits.
    """
    if all(side > 0 and side % stride == 0 for side in imgsz):
        return imgsz
    nearest = [max(stride, round(side / stride) * stride) for side in imgsz]
    given, fitting = (",".join(str(side) for side in dict.fromkeys(sides)) for sides in (imgsz, nearest))
    raise SpecError(
        f"imgsz {given} is not a multiple of the model's stride {stride}; the nearest is --imgsz {fitting}."
    )


def export_module(
    module: nn.Module, inputs: Mapping[str, torch.Tensor], outputs: Sequence[str], path: Path, opset: int = OPSET
) -> None:
    """Write ``module`` as ONNX, the first dimension of every input and output dynamic, and check the graph.

    Raises:
        ExportError: a layer cannot be expressed, or ONNX's checker refuses the graph.
    """
    import onnx
    import torch

    axes = {name: {0: "batch"} for name in (*inputs, *outputs)}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The tracing exporter is deprecated; its graphs are what TensorRT's parser and ModelOpt are tried with.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                str(path),
                dynamo=False,
                opset_version=opset,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes=axes,
            )
    except OSError:
        raise  # a full disk is not the network's fault
    except Exception as e:  # the exporter raises RuntimeError, TypeError and its own kinds alike
        raise ExportError(f"the network cannot be written as ONNX: {str(e).splitlines()[0]}") from e
    model = onnx.load(path)
    with torch.no_grad():
        results = module(*inputs.values())
    # Shape inference does not see through a gather of a dynamic batch; torch knows the sizes.
    for value, result in zip(model.graph.output, results if isinstance(results, tuple) else (results,), strict=True):
        for dim, size in zip(_dims(value)[1:], result.shape[1:], strict=True):
            dim.dim_value = size
    strip(model)
    check_graph(model, path.name)
    onnx.save(model, path)


def strip(model: onnx.ModelProto) -> None:
    """Remove what varies between machines (traces, comments) and stale shapes, and infer the shapes anew."""
    import onnx

    model.doc_string = ""
    model.graph.doc_string = ""
    model.producer_name, model.producer_version = "yolo-triton", ""
    for node in model.graph.node:
        node.doc_string = ""
        node.metadata_props.clear()
    # AutoCast leaves symbolic dimensions that its own casts made false; onnxruntime plans its buffers by them.
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    model.graph.value_info.extend(inferred.graph.value_info)
    for ours, theirs in zip(model.graph.output, inferred.graph.output, strict=True):
        for known, found in zip(_dims(ours)[1:], _dims(theirs)[1:], strict=False):
            if not known.dim_value and found.dim_value:
                known.dim_value = found.dim_value


def _dims(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim


def check_graph(model: onnx.ModelProto, label: str) -> None:
    """Raise ExportError where ONNX's own checker refuses the graph."""
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        raise ExportError(f"{label} is no valid ONNX graph: {str(e).strip().splitlines()[0]}") from e


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename inputs and outputs of the graph wherever they are used; subgraphs are not looked into."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)


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


def _elements(dims: Sequence[int]) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count
