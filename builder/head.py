"""The served graph: pre- and postprocessing attached to the network's, FP32 whatever the network's precision."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.artifacts import Head, NetworkModel, NetworkOutput
from builder.errors import ExportError
from builder.export import check_graph, export_module, rename, strip

if TYPE_CHECKING:
    import onnx
    from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSpec:
    """What is attached to a network."""

    head: Head
    imgsz: tuple[int, int]
    """Height and width in pixels."""
    strides: tuple[int, ...]
    reg_max: int
    classes: int
    nms_free: bool
    iou: float = 0.7
    candidates: int = 512
    """Boxes by confidence that suppression looks at."""
    max_detections: int = 300

    @property
    def anchors(self) -> int:
        """Anchor points over all levels."""
        return sum((self.imgsz[0] // s) * (self.imgsz[1] // s) for s in self.strides)


def attach_head(network: NetworkModel, spec: HeadSpec, output_path: Path) -> None:
    """Write the served graph: preprocessing, the network's graph, postprocessing.

    ``images`` UINT8 [B, H, W, 3] in and ``detections`` FP32 [B, N, 6] out, or with ``Head.RAW`` Ultralytics' own
    ``images`` FP32 [B, 3, H, W] and ``output0``.

    Raises:
        ExportError: the parts do not fit together, or ONNX's checker refuses the whole.
    """
    import onnx
    import torch

    from builder import head_modules

    graph = onnx.load(network.path)
    final = "detections" if spec.head is Head.DETECTIONS else "output0"
    with tempfile.TemporaryDirectory(dir=output_path.parent) as scratch:
        part = Path(scratch) / "part.onnx"
        if network.output is NetworkOutput.LOGITS:
            raw = spec.head is Head.RAW and not spec.nms_free
            kind = head_modules.RawHead if raw else head_modules.TopKHead if spec.nms_free else head_modules.GreedyHead
            ends = {"boxes": (4 * spec.reg_max, spec.anchors), "scores": (spec.classes, spec.anchors)}
            graph = _append(graph, kind(spec), ends, output=final, part=part)
        elif network.output is NetworkOutput.DECODED and spec.head is Head.DETECTIONS:
            ends = {"output0": tuple(d.dim_value for d in graph.graph.output[0].type.tensor_type.shape.dim[1:])}
            graph = _append(graph, head_modules.DecodedHead(spec), ends, output=final, part=part)
        else:
            rename(graph.graph, {"output0": final})
        if spec.head is Head.DETECTIONS:
            images = {"images": torch.zeros(2, *spec.imgsz, 3, dtype=torch.uint8)}
            export_module(head_modules.Preprocess(), images, ("pixels",), part, opset=_opset(graph))
            graph = _merge(_load_part(part, "pre/", graph.ir_version), graph, ("pixels",))
        else:
            rename(graph.graph, {"pixels": "images"})
    strip(graph)
    check_graph(graph, output_path.name)
    onnx.save(graph, output_path)


def _append(
    graph: onnx.ModelProto, module: nn.Module, ends: Mapping[str, tuple[int, ...]], *, output: str, part: Path
) -> onnx.ModelProto:
    """The graph with ``module`` behind its outputs ``ends`` (name: shape without the batch)."""
    import torch

    inputs = {name: torch.zeros(2, *shape) for name, shape in ends.items()}
    export_module(module, inputs, (output,), part, opset=_opset(graph))
    return _merge(graph, _load_part(part, "post/", graph.ir_version), tuple(ends))


def _opset(graph: onnx.ModelProto) -> int:
    return max(int(o.version) for o in graph.opset_import if o.domain in ("", "ai.onnx"))


def _load_part(path: Path, prefix: str, ir_version: int) -> onnx.ModelProto:
    import onnx

    model = onnx.load(path)
    model.ir_version = ir_version  # both sides of a merge must agree
    return onnx.compose.add_prefix(model, prefix, rename_inputs=False, rename_outputs=False)


def _merge(first: onnx.ModelProto, second: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    import onnx

    try:
        return onnx.compose.merge_models(first, second, io_map=[(name, name) for name in names])
    except ValueError as e:
        raise ExportError(f"the network's graph and its head do not fit together: {e}") from e
