"""The configuration that is tuned: read, changed in what is searched, and written whole, all as Triton's protobuf."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import RepositoryError, SpecError
from builder.serving import ServingSettings

if TYPE_CHECKING:
    from builder.config_pbtxt import ModelConfig

MOST_INSTANCES_OF_A_GPU = 4


def config_path(repository: Path, model: str, config_name: str) -> Path:
    """Where Triton looks with ``--model-config-name``."""
    return repository / model / "configs" / f"{config_name}.pbtxt"


def read_config(path: Path) -> ModelConfig:
    """The message; raises RepositoryError where there is none, and SpecError where nothing in it can be tuned."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    try:
        config = text_format.Parse(path.read_text(), pb.ModelConfig())
    except FileNotFoundError as error:
        raise RepositoryError(f"expected a configuration at {path}, found none; build the model for it") from error
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        reason = " ".join(str(error).split())
        raise RepositoryError(f"{path}: expected a Triton model configuration, got: {reason}") from error
    if config.HasField("ensemble_scheduling"):
        steps = ", ".join(step.model_name for step in config.ensemble_scheduling.step)
        raise SpecError(f"{path} is an ensemble, which has no batcher of its own; tune its steps: {steps}")
    if config.max_batch_size < 1:
        raise SpecError(f"{path}: expected a model with a batch dimension, its max_batch_size is 0")
    if len(config.instance_group) > 1:
        raise SpecError(f"{path}: expected one instance_group, got {len(config.instance_group)}; leave one of them")
    if len(config.input) != 1:
        raise SpecError(f"{path}: expected a model of one input, got {len(config.input)}")
    return config


def settings_in(config: ModelConfig) -> ServingSettings:
    """How it queues, batches and runs now."""
    batching = config.dynamic_batching
    policy = batching.default_queue_policy
    group = config.instance_group[0] if config.instance_group else None
    return ServingSettings(
        max_batch=config.max_batch_size,
        instances=max(1, group.count) if group else 1,
        max_queue_delay_us=batching.max_queue_delay_microseconds,
        max_queue_size=policy.max_queue_size,
        queue_timeout_ms=policy.default_timeout_microseconds // 1000,
        priority_levels=batching.priority_levels,
    )


def most_instances(config: ModelConfig) -> int:
    """How many instances are tried unless it is said: those of a CPU share its cores."""
    on_cpu = any("CPU" in type(group).Kind.Name(group.kind) for group in config.instance_group)
    return min(MOST_INSTANCES_OF_A_GPU, len(os.sched_getaffinity(0))) if on_cpu else MOST_INSTANCES_OF_A_GPU


def with_settings(config: ModelConfig, settings: ServingSettings) -> ModelConfig:
    """A copy with these batches, instances, delay and bound of the queue; everything else is as it was.

    Settings with neither a bound nor a timeout have no queue policy.
    """
    changed = type(config)()
    changed.CopyFrom(config)
    if not changed.instance_group:
        changed.instance_group.add()
    changed.instance_group[0].count = settings.instances
    changed.dynamic_batching.max_queue_delay_microseconds = settings.max_queue_delay_us
    policy = changed.dynamic_batching.default_queue_policy
    if settings.max_queue_size or (settings.queue_timeout_ms and policy.max_queue_size):
        policy.max_queue_size = settings.max_queue_size
    elif not settings.queue_timeout_ms:
        changed.dynamic_batching.ClearField("default_queue_policy")
    _limit_batch(changed, settings.max_batch)
    return changed


def _limit_batch(config: ModelConfig, max_batch: int) -> None:
    """Set the largest batch, and warm up with it where the former one was; no graph is captured beyond it."""
    former = config.max_batch_size
    config.max_batch_size = max_batch
    samples = [sample for sample in config.model_warmup if sample.batch_size < min(former, max_batch)]
    largest = [sample for sample in config.model_warmup if sample.batch_size >= min(former, max_batch)]
    kept = [type(sample).FromString(sample.SerializeToString()) for sample in (*samples, *largest[-1:])]
    if largest:
        kept[-1].batch_size = max_batch
        kept[-1].name = kept[-1].name.replace(str(largest[-1].batch_size), str(max_batch))
    del config.model_warmup[:]
    config.model_warmup.extend(kept)
    if config.optimization.HasField("cuda"):
        graphs = [spec for spec in config.optimization.cuda.graph_spec if spec.batch_size <= max_batch]
        kept_graphs = [type(spec).FromString(spec.SerializeToString()) for spec in graphs]
        del config.optimization.cuda.graph_spec[:]
        config.optimization.cuda.graph_spec.extend(kept_graphs)


def as_json(config: ModelConfig) -> str:
    """As the model-control API takes it."""
    from google.protobuf import json_format

    text: str = json_format.MessageToJson(config, preserving_proto_field_name=True)
    return text


def write_config(path: Path, config: ModelConfig) -> None:
    """Whole or not at all; raises RepositoryError where it cannot be written."""
    from google.protobuf import text_format

    from builder.durable import replace_file

    text = text_format.MessageToString(config, as_utf8=True, use_short_repeated_primitives=True)
    try:
        replace_file(path, text.encode())
    except OSError as error:
        raise RepositoryError(f"{path}: cannot be written: {error.strerror}; what was there is unchanged") from error


def input_of(config: ModelConfig) -> tuple[str, tuple[int, ...]]:
    """The input's name and the shape of one image; raises SpecError where a size is free."""
    tensor: Any = config.input[0]
    shape = tuple(int(size) for size in tensor.dims)
    if min(shape, default=1) < 1:
        raise SpecError(f"input {tensor.name}: expected a fixed shape, got {list(shape)}")
    return tensor.name, shape
