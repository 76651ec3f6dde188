"""Whether a configuration and the served graph agree about names, types, dimensions and batches."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.doctor.findings import Finding, fails, warning
from builder.doctor.model import Config, Model, VersionFolder

# What the graph computes; a plan is built from the graph beside it.
BACKENDS = ("onnxruntime", "tensorrt")
# As onnxruntime reads them: images:8x640x640x3,other:8x2.
_PROFILE = re.compile(r"([^:,]+):(\d+(?:x\d+)*)")

Dims = tuple[int, ...]
"""-1 where a dimension is free."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphTensor:
    """One input or output of a graph."""

    dtype: str
    """Triton's name: ``TYPE_UINT8``; empty where Triton has none."""
    dims: Dims | None
    """The batch included; None where the graph does not tell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphFile:
    """The two ends of an ONNX file."""

    inputs: Mapping[str, GraphTensor]
    outputs: Mapping[str, GraphTensor]
    error: str = ""
    """Why it cannot be read; then both ends are empty."""


def check_graph(model: Model, config: Config) -> Iterator[Finding]:
    """What differs between a configuration and the graph of each version that it loads."""
    for version in model.loaded(config):
        graph_file = version.graph_file
        if (
            config.error is not None
            or config.is_empty
            or graph_file is None
            or not _serves_graph(model, config, version)
        ):
            continue
        path, where = version.path / graph_file, f"{version.where}/{graph_file}"
        graph = read_graph(path, path.stat().st_mtime_ns)
        if graph.error:
            what = f"expected an ONNX graph, got: {graph.error}"
            yield fails("graph-unreadable", where, what, "build the model again: python -m builder build")
            continue
        yield from _check_batch(model, config, graph, where)
        for kind, declared, there in (
            ("input", config.message.input, graph.inputs),
            ("output", config.message.output, graph.outputs),
        ):
            yield from _check_tensors(config, kind, declared, there, graph_file)


def check_accelerator(config: Config) -> Iterator[Finding]:
    """Whether the profile that onnxruntime's TensorRT builds an engine for holds every batch that requests can make."""
    dims = {each.name: list(each.dims) for each in config.message.input}
    accelerators = config.message.optimization.execution_accelerators.gpu_execution_accelerator
    for accelerator in accelerators if config.error is None else ():
        for key in ("trt_profile_min_shapes", "trt_profile_max_shapes"):
            shapes = _PROFILE.findall(accelerator.parameters.get(key, ""))
            for name, sizes in shapes if accelerator.name == "tensorrt" else ():
                batch, *rest = map(int, sizes.split("x"))
                least, largest = 1, max(1, config.message.max_batch_size)
                outside = batch > least if key == "trt_profile_min_shapes" else batch < largest
                if outside or (name in dims and dims[name] != rest):
                    requests = f"batches of {least} to {largest}, each {dims.get(name, 'without such an input')}"
                    what = f"{key} is {name}:{sizes}, and requests come in {requests}: the engine lacks some of them"
                    yield warning("profile-shapes", config.where, what, "let the profile hold every batch and size")


def _serves_graph(model: Model, config: Config, version: VersionFolder) -> bool:
    """Whether the configuration's backend runs this graph, or what was built from it."""
    backend = model.backend(config)
    return backend in BACKENDS or (backend == "python" and isinstance(version.build.get("graph"), dict))


def _check_batch(model: Model, config: Config, graph: GraphFile, where: str) -> Iterator[Finding]:
    largest = config.message.max_batch_size
    if largest < 1:
        return
    for name, tensor in graph.inputs.items():
        fixed = tensor.dims[0] if tensor.dims else -1
        # The Python model compiles the graph for one image at a time.
        if fixed != -1 and not (fixed == 1 and model.backend(config) == "python"):
            what = f"max_batch_size is {largest}, and input {name!r} of {where} has a fixed batch of {fixed}"
            yield fails("batch-graph", config.where, what, "export the graph with a dynamic batch")


def _check_tensors(
    config: Config, kind: str, declared: Sequence[Any], there: Mapping[str, GraphTensor], graph_file: str
) -> Iterator[Finding]:
    names = {each.name for each in declared}
    fix = f"write {kind}s as {graph_file} has them: {_listed(there, config)}"
    if not names and there:
        what = f"no {kind} is in the configuration; with --disable-auto-complete-config, as models are served, none is"
        yield fails(f"{kind}-name", config.where, f"{what} read off {graph_file}", fix)
        return
    for name in sorted(names - there.keys()):
        what = f"{kind} {name!r} is not in {graph_file}, which has {', '.join(there)}"
        yield fails(f"{kind}-name", config.where, what, fix)
    if kind == "input":
        for name in sorted(there.keys() - names):
            what = f"input {name!r} of {graph_file} is not in the configuration"
            yield fails("input-name", config.where, what, fix)
    for each in declared:
        if each.name in there:
            for check, what in _mismatch(config, kind, each, there[each.name]):
                yield fails(check, config.where, f"{what} ({graph_file})", fix)


def _mismatch(config: Config, kind: str, declared: Any, tensor: GraphTensor) -> Iterator[tuple[str, str]]:
    from tritonclient.grpc import model_config_pb2 as pb

    dtype = pb.DataType.Name(declared.data_type)
    if dtype != tensor.dtype:
        yield f"{kind}-type", f"{kind} {declared.name!r}: expected {tensor.dtype or 'no such type'}, got {dtype}"
    if tensor.dims is None:
        return
    dims = list(declared.reshape.shape if declared.HasField("reshape") else declared.dims)
    expected = list(tensor.dims[1:] if config.message.max_batch_size else tensor.dims)
    # A free dimension of the graph takes any size.
    if len(dims) != len(expected) or any(size not in (-1, got) for size, got in zip(expected, dims, strict=True)):
        yield f"{kind}-dims", f"{kind} {declared.name!r}: expected dims {expected}, got {dims}"


def _listed(tensors: Mapping[str, GraphTensor], config: Config) -> str:
    start = 1 if config.message.max_batch_size else 0
    return "; ".join(
        f"{name} {tensor.dtype} {'of any shape' if tensor.dims is None else list(tensor.dims[start:])}"
        for name, tensor in tensors.items()
    )


@functools.lru_cache(maxsize=8)
def read_graph(path: Path, changed_ns: int) -> GraphFile:
    """The two ends of an ONNX file as it is since then; weights that lie beside it are not read."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (DecodeError, ValueError, OSError) as e:
        return GraphFile(inputs={}, outputs={}, error=str(e) or type(e).__name__)
    if not graph.node or not graph.output:
        return GraphFile(inputs={}, outputs={}, error="it holds no graph")
    weights = {each.name for each in graph.initializer}
    return GraphFile(
        inputs={each.name: _tensor(each) for each in graph.input if each.name not in weights},
        outputs={each.name: _tensor(each) for each in graph.output},
    )


def _tensor(value: Any) -> GraphTensor:
    from onnx import TensorProto

    renamed = {"FLOAT": "FP32", "FLOAT16": "FP16", "DOUBLE": "FP64", "BFLOAT16": "BF16"}
    same = ("BOOL", "STRING", *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)))
    kind = value.type.tensor_type
    name = TensorProto.DataType.Name(kind.elem_type)
    dtype = renamed.get(name, name if name in same else "")
    dims = None
    if kind.HasField("shape"):
        dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    return GraphTensor(dtype=f"TYPE_{dtype}" if dtype else "", dims=dims)
