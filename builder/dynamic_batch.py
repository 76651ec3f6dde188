"""A graph that was exported for a fixed batch becomes one that takes any batch, proven by running both.

An exporter writes the batch into the target shapes of Reshape and Expand. Each of them has the batch in front, alone or
multiplied by something, as long as the layout is batch-major; whether it is, and whether anything else in the graph
holds the batch, is what the proof tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from builder.errors import WeightsError
from builder.graph_tensors import Tensor, tensors_of

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_PROOF_BATCHES = (1, 2, 3)
# Kernels are chosen by the size of their input, so that sums may be added up in another order: FP32's eps is 1.2e-7.
_RELATIVE_TOLERANCE = 1e-6


class BatchError(Exception):
    """The graph does not compute the same for another batch; the message says how that was seen."""


def with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model``, which fixes its batch, whose batch is free.

    Whether it computes the same is for ``prove_same`` to tell.
    """
    import onnx

    tensors = tensors_of(model, 1).tensors
    free = onnx.ModelProto()
    free.CopyFrom(model)
    del free.graph.value_info[:]
    constants = {initializer.name: initializer for initializer in free.graph.initializer}
    inputs = [value for value in free.graph.input if value.name not in constants]
    for value in (*inputs, *free.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    for position, node in enumerate(free.graph.node):
        target = _target(node, tensors)
        if target is not None:
            name = f"{node.output[0]}/any_batch/{position}"
            free.graph.initializer.append(onnx.numpy_helper.from_array(np.array(target, np.int64), name))
            node.input[1] = name
    return free


def _target(node: onnx.NodeProto, tensors: dict[str, Tensor]) -> tuple[int, ...] | None:
    """The shape for a Reshape or an Expand that leaves the first dimension open; None where none is needed."""
    if node.op_type not in ("Reshape", "Expand"):
        return None
    given, result = tensors[node.input[0]], tensors[node.output[0]]
    if given.constant or not given.shape or not result.shape:
        return None
    if node.op_type == "Reshape":
        return (-1, *result.shape[1:])
    # An Expand takes 1 for "as it is"; what it spreads over the batch itself has nothing to take the batch from.
    kept = len(given.shape) == len(result.shape) and given.shape[0] == result.shape[0]
    return (1, *result.shape[1:]) if kept else None


def prove_same(fixed: onnx.ModelProto, free: onnx.ModelProto) -> None:
    """Run both on the same pictures, ``free`` by one, two and three, and compare what they give for each.

    Both have one input [B, 3, H, W], FP32.

    Raises:
        BatchError: a result differs.
        WeightsError: the graph as it was exported does not run.
    """
    if _compare(fixed, free):
        return
    # An untrained network gives the same whatever it sees. Where the batch is in a graph is no matter of its weights.
    if not _compare(_with_lively_weights(fixed), _with_lively_weights(free)):
        raise BatchError("it gives the same for different pictures, so that nothing can be proven")


def _compare(fixed: onnx.ModelProto, free: onnx.ModelProto) -> bool:
    """Whether the results, which are the same, tell anything: not where each picture gives the same one."""
    dims = [dim.dim_value for dim in fixed.graph.input[0].type.tensor_type.shape.dim]
    pictures_BCHW = _pictures(max(_PROOF_BATCHES), dims[2], dims[3])
    try:
        expected = _by_batches_of(dims[0], fixed, pictures_BCHW)
    except Exception as e:  # onnxruntime has exceptions of its own
        raise WeightsError(f"the graph does not run in onnxruntime: {_first_line(e)}") from e
    for batch in _PROOF_BATCHES:
        try:
            (found,) = _results(free, [pictures_BCHW[:batch]])
        except Exception as e:
            raise BatchError(f"a batch of {batch} does not run: {_first_line(e)}") from e
        if found.shape != expected[:batch].shape:
            raise BatchError(f"a batch of {batch} gives {found.shape}, expected {expected[:batch].shape}")
        if not _same(found, expected[:batch]):
            raise BatchError(f"in a batch of {batch} the results differ")
    return not any(_same(expected[i], expected[i - 1]) for i in range(len(expected)))


def _with_lively_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose convolutions keep the size of a signal (He et al. 2015); the same for graphs of one network."""
    import onnx

    lively = onnx.ModelProto()
    lively.CopyFrom(model)
    weights = {initializer.name: initializer for initializer in lively.graph.initializer}
    random = np.random.default_rng(0)
    for node in lively.graph.node:
        if node.op_type == "Conv" and node.input[1] in weights:
            weight = weights[node.input[1]]
            spread = np.sqrt(2 / max(1, math.prod(weight.dims[1:])))
            values = random.normal(0, spread, tuple(weight.dims)).astype(np.float32)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    return lively


def _pictures(count: int, height: int, width: int) -> NDArray[np.float32]:
    """FP32 [count, 3, height, width] in [0, 1]: patches of colour and noise, no two pictures alike."""
    random = np.random.default_rng(0)
    coarse = random.random((count, 3, -(-height // 32), -(-width // 32)), np.float32)
    patches = coarse.repeat(32, axis=2).repeat(32, axis=3)[:, :, :height, :width]
    pictures: NDArray[np.float32] = 0.8 * patches + 0.2 * random.random(patches.shape, np.float32)
    return pictures


def _by_batches_of(batch: int, model: onnx.ModelProto, pictures_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the graph gives for each picture, run by batches of just ``batch``, the last filled up by repetition."""
    count = len(pictures_BCHW)
    chosen = [np.arange(start, start + batch) % count for start in range(0, count, batch)]
    return np.concatenate(list(_results(model, [pictures_BCHW[each] for each in chosen])))[:count]


def _results(model: onnx.ModelProto, batches: list[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """What onnxruntime gives for each batch."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for batch in batches:
        yield session.run(None, {session.get_inputs()[0].name: batch})[0]


def _same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Whether all values are the same but for rounding."""
    return bool(np.allclose(a, b, rtol=_RELATIVE_TOLERANCE, atol=_RELATIVE_TOLERANCE))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
