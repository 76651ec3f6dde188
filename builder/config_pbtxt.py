"""The Triton configurations of a deployed detector: one per GPU and one for the CPU, all of the same contract.

Each is built as tritonclient's ``ModelConfig`` protobuf and printed by ``text_format``, so that a field that Triton
does not have cannot be written. Triton's own names are kept: instance group, queue policy, model warmup.

``config.pbtxt`` and ``configs/<gpu>.pbtxt`` run model.onnx on the onnxruntime backend with its TensorRT accelerator.
``configs/cpu.pbtxt`` runs it on OpenVINO in the Python backend; ``tritonserver --model-config-name=cpu`` picks it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from builder.artifacts import ConfigFile, CpuPrecision, Head, OnnxModel, TensorSpec
from builder.errors import SpecError

if TYPE_CHECKING:
    from builder.gpus import GpuTarget

ModelConfig: TypeAlias = Any
"""tritonclient's protobuf message, which has no type stubs."""
DataType: TypeAlias = int

CPU_CONFIG_NAME = "cpu"
ENGINE_CACHE_PREFIX = "/tmp/yolo-triton-trt-"  # noqa: S108
"""Where TensorRT engines are cached on the serving machine; the first 16 digits of the graph's sha256 follow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingSettings:
    """How Triton queues, batches and runs a detector."""

    max_batch: int = 8
    instances: int = 2
    """On each GPU. With one that is busy and a queue policy, Triton's batcher may let a request lie until the next one
    comes, for up to 500 ms (core's dynamic_batch_scheduler.cc); and a second one computes while the first transfers."""
    cpu_instances: int = 1
    max_queue_delay_us: int = 500
    """How long a request may wait for others to share its batch."""
    max_queue_size: int = 128
    """Requests waiting beyond this are refused at once; 0 is no bound."""
    queue_timeout_ms: int = 1000
    """Requests that waited longer are refused; a request may ask for less, not for more; 0 is no limit."""
    inference_threads: int | None = None
    """OpenVINO's threads on the CPU; None leaves the number to OpenVINO."""
    cpu_precision: CpuPrecision = CpuPrecision.FP32

    def __post_init__(self) -> None:
        """Check the bounds.

        Raises:
            SpecError: a number is out of bounds, or the queue is smaller than one batch.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            lowest = 0 if field.name in ("max_queue_delay_us", "max_queue_size", "queue_timeout_ms") else 1
            if field.name == "cpu_precision" or (value is None and field.name == "inference_threads"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise SpecError(f"{field.name}: expected a whole number of at least {lowest}, got {value!r}")
        if 0 < self.max_queue_size < self.max_batch:
            raise SpecError(
                f"max_queue_size: expected at least max_batch ({self.max_batch}), got {self.max_queue_size}; "
                f"a shorter queue never fills a batch"
            )


def config_files(
    model: OnnxModel,
    *,
    name: str,
    version: int,
    settings: ServingSettings,
    gpu: GpuTarget,
    head: Head,
    names: tuple[str, ...],
    parameters: Mapping[str, str] | None = None,
) -> tuple[ConfigFile, ...]:
    """The configurations that serve ``model`` as version ``version`` of ``name``: the CPU's, the GPU's, the default.

    ``names`` are the classes, in order of class id; a client reads them, the contract and any ``parameters`` besides
    from the server.

    Raises:
        SpecError: an input's size is not fixed, so it can neither be warmed up nor given a TensorRT profile.
    """
    for spec in model.inputs:
        if any(size < 1 for size in spec.shape):
            raise SpecError(
                f"input {spec.name}: expected a fixed size, got {list(spec.shape)}; export with one image size, "
                f"since warmup and TensorRT's optimization profile need it"
            )
    about = {"names": json.dumps(names, ensure_ascii=False), "contract": f"{head.value}/1", **(parameters or {})}
    contract = _contract(model, name=name, version=version, settings=settings, parameters=about)
    on_cpu = _text(_on_openvino(contract, settings))
    on_gpu = _text(_on_tensorrt(contract, settings, model, gpu))
    return (
        ConfigFile(relative_path=f"configs/{CPU_CONFIG_NAME}.pbtxt", text=on_cpu),
        ConfigFile(relative_path=f"configs/{gpu.name}.pbtxt", text=on_gpu),
        ConfigFile(relative_path="config.pbtxt", text=on_gpu),
    )


def _contract(
    model: OnnxModel, *, name: str, version: int, settings: ServingSettings, parameters: Mapping[str, str]
) -> ModelConfig:
    """What a client sees, and how requests wait: the same on every machine."""
    from tritonclient.grpc import model_config_pb2 as pb

    config = pb.ModelConfig(name=name, max_batch_size=settings.max_batch)
    # A version that is being written beside this one must not be served, and one that is named here must exist.
    config.version_policy.specific.versions.append(version)
    for spec in model.inputs:
        config.input.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape)
    for spec in model.outputs:
        # The file is read when the model loads, from the model's folder: the version's own labels go with its graph.
        labels = f"{version}/labels.txt"
        config.output.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape, label_filename=labels)
    # No preferred_batch_size: Triton's guide keeps it for plans with several optimization profiles.
    config.dynamic_batching.max_queue_delay_microseconds = settings.max_queue_delay_us
    queue = config.dynamic_batching.default_queue_policy
    if settings.queue_timeout_ms:
        queue.timeout_action = pb.ModelQueuePolicy.REJECT
        queue.default_timeout_microseconds = settings.queue_timeout_ms * 1000
        queue.allow_timeout_override = True
    if settings.max_queue_size:
        queue.max_queue_size = settings.max_queue_size
    if not (settings.queue_timeout_ms or settings.max_queue_size):
        config.dynamic_batching.ClearField("default_queue_policy")
    for batch in sorted({1, settings.max_batch}):
        # batch_size N makes N requests of batch 1, which reach the backend in one execute call (core's
        # backend_model_instance.cc): every batch that this covers is a batch that the scheduler could have made.
        sample = config.model_warmup.add(name=f"batch_{batch}", batch_size=batch)
        for spec in model.inputs:
            tensor = sample.inputs[spec.name]
            tensor.data_type = _data_type(spec)
            tensor.dims.extend(spec.shape)
            # Random bytes are pixels where the type is UINT8; as FP32 they would hold NaN and infinity.
            if spec.dtype == "UINT8":
                tensor.random_data = True
            else:
                tensor.zero_data = True
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    return config


def _on_openvino(contract: ModelConfig, settings: ServingSettings) -> ModelConfig:
    """The contract served by model.py on the Python backend."""
    from tritonclient.grpc import model_config_pb2 as pb

    config = pb.ModelConfig()
    config.CopyFrom(contract)
    config.backend = "python"
    # model.py runs one image at a time on each stream: waiting for company only costs time.
    config.dynamic_batching.max_queue_delay_microseconds = 0
    config.instance_group.add(count=settings.cpu_instances, kind=pb.ModelInstanceGroup.KIND_CPU)
    arithmetic = {CpuPrecision.FP32: "f32", CpuPrecision.BF16: "bf16"}[settings.cpu_precision]
    config.parameters["inference_precision"].string_value = arithmetic
    if settings.inference_threads is not None:
        config.parameters["inference_threads"].string_value = str(settings.inference_threads)
    return config


def _on_tensorrt(contract: ModelConfig, settings: ServingSettings, model: OnnxModel, gpu: GpuTarget) -> ModelConfig:
    """The contract served by model.onnx on the onnxruntime backend with its TensorRT accelerator.

    ``precision_mode`` is left out on purpose: with neither FP16 nor INT8 asked for, onnxruntime builds a strongly typed
    network (onnxruntime 1.18 and later, TensorRT 9 and later), which keeps the types that the precision stage chose.
    """
    from tritonclient.grpc import model_config_pb2 as pb

    config = pb.ModelConfig()
    config.CopyFrom(contract)
    config.backend = "onnxruntime"
    config.default_model_filename = "model.onnx"
    config.instance_group.add(count=settings.instances, kind=pb.ModelInstanceGroup.KIND_GPU)
    # onnxruntime makes this folder, one level deep, and names the engines in it by the graph's structure, not by its
    # weights: with a path of its own, retrained weights never meet the engine of the old ones.
    cache = f"{ENGINE_CACHE_PREFIX}{model.sha256[:16]}"
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    accelerator.parameters.update(
        {
            "max_workspace_size_bytes": str(_workspace_bytes(gpu, settings.instances)),
            "trt_builder_optimization_level": "3",
            "trt_engine_cache_enable": "true",
            "trt_engine_cache_path": cache,
            "trt_timing_cache_enable": "true",
            "trt_timing_cache_path": cache,
            # With all three given the engine is built while the model loads, not at the first request.
            "trt_profile_min_shapes": _profile(model.inputs, 1),
            "trt_profile_opt_shapes": _profile(model.inputs, settings.max_batch),
            "trt_profile_max_shapes": _profile(model.inputs, settings.max_batch),
        }
    )
    return config


def _profile(inputs: tuple[TensorSpec, ...], batch: int) -> str:
    """The shapes of an optimization profile as onnxruntime reads them: ``images:8x640x640x3``."""
    return ",".join(f"{spec.name}:{'x'.join(map(str, (batch, *spec.shape)))}" for spec in inputs)


def _workspace_bytes(gpu: GpuTarget, instances: int) -> int:
    """How much memory TensorRT may use while it runs: a quarter of the GPU's over all instances, 4 GiB each at most.

    A ceiling, not a reservation: a tactic that needs less takes less.
    """
    return min(4 << 30, int(gpu.memory_gb * 1e9 / 4 / instances) >> 20 << 20)


def _data_type(spec: TensorSpec) -> DataType:
    """Triton's number of the tensor's type."""
    from tritonclient.grpc import model_config_pb2 as pb

    number: DataType = pb.DataType.Value(f"TYPE_{spec.dtype}")
    return number


def _text(config: ModelConfig) -> str:
    """The message in protobuf's text format; maps come out sorted by key, so equal messages have equal bytes."""
    from google.protobuf import text_format

    text: str = text_format.MessageToString(config, as_utf8=True, use_short_repeated_primitives=True)
    return text
