"""What a model on the server says of itself, read from its configuration: pure, no connection.

The configuration is Triton's ModelConfig as a dictionary, as both protocols give it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clients.errors import ContractError

CONTRACT = "detections/1"
ENCODED_CONTRACT = "encoded/1"
"""That of ``clients.encoded``, whose models are found by their detector's."""
INPUT = "images"
OUTPUT = "detections"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contract:
    """A served detector: ``images`` UINT8 [B, H, W, 3] in, ``detections`` FP32 [B, N, 6] out."""

    model: str
    version: str
    """The version asked for; empty lets the server choose."""
    size_hw: tuple[int, int]
    """Height and width of the input in pixels."""
    names: tuple[str, ...]
    """Class names in the order of their numbers."""
    max_batch_size: int
    max_detections: int
    """Rows per image, N."""
    instances: int = 1
    """How many batches the server computes side by side, as far as its configuration tells."""
    max_queue_size: int = 0
    """How many requests the server lets wait; 0: as many as come."""

    @property
    def saturating_requests(self) -> int:
        """Requests of one image in flight that keep the server's batcher full, and that its queue has room for.

        2 x max_batch x instances (Triton's user guide, optimization): one batch computed, and the next one waiting. No
        more than the queue holds, since until the batcher looks at them all may lie there.
        """
        filling = 2 * self.max_batch_size * self.instances
        return min(filling, self.max_queue_size) if self.max_queue_size else filling


def contract_from_config(config: Mapping[str, Any], *, model: str, version: str = "") -> Contract:
    """Read a model's configuration; raises ContractError, naming what differs, for one that is not of this contract."""
    inputs, outputs = config.get("input", []), config.get("output", [])
    parameters = {key: value.get("string_value", "") for key, value in config.get("parameters", {}).items()}
    refuse = _Refusal(model)

    if _is_raw(inputs, outputs):
        raise refuse(
            "has Ultralytics' raw head (FP32 pixels in, output0 out), which this client does not decode: build it with "
            f'--head detections, or use Ultralytics\' own client, YOLO("grpc://HOST:PORT/{model}")'
        )
    claimed = parameters.get("contract")
    if claimed == ENCODED_CONTRACT:
        raise refuse(
            "takes encoded images, and is found by its detector's name: give that one, without _jpeg, and "
            'send="encoded" (--send encoded)'
        )
    if claimed != CONTRACT:
        came = f"says contract {claimed!r}" if claimed else "has no parameter 'contract'"
        raise refuse(f"{came}, expected {CONTRACT!r}: build it with this release's python -m builder build")

    height, width, channels = _tensor(inputs, INPUT, "TYPE_UINT8", rank=3, refuse=refuse, what="input")
    rows, columns = _tensor(outputs, OUTPUT, "TYPE_FP32", rank=2, refuse=refuse, what="output")
    if channels != 3 or columns != 6:
        raise refuse(
            f"expected an input [H, W, 3] and an output [N, 6], got {[height, width, channels]} and {[rows, columns]}"
        )
    max_batch_size = int(config.get("max_batch_size", 0))
    if max_batch_size < 1:
        raise refuse("has max_batch_size 0, expected at least 1: the contract has a batch dimension")
    return Contract(
        model=model,
        version=version,
        size_hw=(height, width),
        names=_names(parameters.get("names", ""), refuse),
        max_batch_size=max_batch_size,
        max_detections=rows,
        instances=_instances(config),
        max_queue_size=_max_queue_size(config),
    )


class _Refusal:
    """Makes the errors of one model."""

    def __init__(self, model: str) -> None:
        self._model = model

    def __call__(self, reason: str) -> ContractError:
        return ContractError(f"model {self._model!r} {reason}")


def _is_raw(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> bool:
    return any(tensor.get("name") == "output0" for tensor in outputs) and any(
        tensor.get("data_type") in {"TYPE_FP32", "TYPE_FP16"} for tensor in inputs
    )


def _tensor(
    tensors: list[dict[str, Any]], name: str, data_type: str, *, rank: int, refuse: _Refusal, what: str
) -> list[int]:
    """The dimensions of the one tensor that is expected."""
    if [tensor.get("name") for tensor in tensors] != [name] or tensors[0].get("data_type") != data_type:
        got = ", ".join(f"{tensor.get('name')} {tensor.get('data_type')}" for tensor in tensors) or "none"
        raise refuse(f"has {what} {got}, expected {name} {data_type}: build it with python -m builder build")
    # protobuf's JSON writes 64-bit integers as strings.
    dims = [int(dim) for dim in tensors[0].get("dims", [])]
    if len(dims) != rank or min(dims) < 1:
        raise refuse(
            f"has {what} {name} of shape {dims}, expected {rank} fixed dimensions: build it with a fixed --imgsz"
        )
    return dims


def _instances(config: Mapping[str, Any]) -> int:
    # Triton counts instances per listed GPU, and fills in all GPUs where none is listed.
    groups = config.get("instance_group", [])
    return max(1, sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", []))) for group in groups))


def _max_queue_size(config: Mapping[str, Any]) -> int:
    batching = config.get("dynamic_batching", {})
    levels = [batching.get("default_queue_policy", {}), *batching.get("priority_queue_policy", {}).values()]
    sizes = [size for level in levels if (size := int(level.get("max_queue_size", 0)))]
    return min(sizes, default=0)


def _names(text: str, refuse: _Refusal) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise refuse(f"has parameter 'names' {text[:60]!r}, expected a JSON list of class names: build it again")
    return tuple(names)
