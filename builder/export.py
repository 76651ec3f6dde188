"""Weights become the network's ONNX graph: pixels in, the raw head out, dynamic batch, static size."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.artifacts import NetworkModel, NetworkOutput
from builder.errors import ExportError, SpecError

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
        ExportError: the network has a layer that ONNX cannot express, or needs more memory than there is.
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
    with _telling_of_memory():
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
        with _telling_of_memory(), warnings.catch_warnings(), torch.no_grad():
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
    except (OSError, ExportError):
        raise  # a full disk is not the network's fault
    except Exception as e:  # the exporter raises RuntimeError, TypeError and its own kinds alike
        raise ExportError(f"the network cannot be written as ONNX: {str(e).splitlines()[0]}") from e
    model = onnx.load(path)
    with _telling_of_memory(), torch.no_grad():
        results = module(*inputs.values())
    # Shape inference does not see through a gather of a dynamic batch; torch knows the sizes.
    for value, result in zip(model.graph.output, results if isinstance(results, tuple) else (results,), strict=True):
        for dim, size in zip(_dims(value)[1:], result.shape[1:], strict=True):
            dim.dim_value = size
    strip(model)
    check_graph(model, path.name)
    onnx.save(model, path)


@contextlib.contextmanager
def _telling_of_memory() -> Iterator[None]:
    """Raise ExportError where a network needs more memory than there is."""
    try:
        yield
    except (RuntimeError, MemoryError) as e:
        refused = _refused_bytes(e)
        if refused is None and not isinstance(e, MemoryError):
            raise
        asked = f" ({refused / 1e9:.1f} GB were asked for at once)" if refused else ""
        raise ExportError(
            f"the network needs more memory for images of this size than this machine gives{asked}; give a smaller "
            "--imgsz, or build on a machine with more memory."
        ) from e


def _refused_bytes(error: Exception) -> int | None:
    """How much PyTorch's allocator could not get; None where that is not what ``error`` is about."""
    found = re.search(r"can't allocate memory: you tried to allocate (\d+) bytes", str(error))
    return int(found[1]) if found else None


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
