"""The Triton configurations of a deployed detector: one per GPU, one for the fleet, one for the CPU; one contract.

Each is built as tritonclient's ``ModelConfig`` protobuf and printed by ``text_format``, so that a field that Triton
does not have cannot be written. Triton's own names are kept: instance group, queue policy, model warmup.

``config.pbtxt`` and ``configs/<gpu>.pbtxt`` run TensorRT plans where there are plans, else model.onnx on the
onnxruntime backend with its TensorRT accelerator. ``configs/cpu.pbtxt`` runs model.onnx on OpenVINO.
``tritonserver --model-config-name=NAME`` picks one of ``configs/``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

from builder.artifacts import ConfigFile, CpuPrecision, OnnxModel, TensorSpec

if TYPE_CHECKING:
    from builder.deployment import Deployment
    from builder.serving import GpuServing, ServingSettings

ModelConfig: TypeAlias = Any
"""tritonclient's protobuf message, which has no type stubs."""
DataType: TypeAlias = int

CPU_CONFIG_NAME = "cpu"
ENGINE_CACHE_PREFIX = "/tmp/yolo-triton-trt-"  # noqa: S108
"""Where TensorRT engines are cached on the serving machine; the first 16 digits of the graph's sha256 follow."""


def config_files(deployment: Deployment, version: int) -> tuple[ConfigFile, ...]:
    """The configurations that serve version ``version``: the CPU's, each GPU's, and last the whole fleet's.

    ``config.pbtxt`` holds what every GPU of the fleet can take. It serves the plans where each GPU has one, and
    model.onnx otherwise: Triton loads a model whole or not at all.
    """
    files = {f"configs/{CPU_CONFIG_NAME}.pbtxt": _on_openvino(deployment, version)}
    for each in deployment.fleet:
        files[f"configs/{each.gpu.name}.pbtxt"] = _on_gpus(deployment, version, each.settings, (each,))
    files["config.pbtxt"] = _on_gpus(deployment, version, deployment.whole_fleet, deployment.fleet)
    return tuple(ConfigFile(relative_path=path, text=_text(config)) for path, config in files.items())


def _on_gpus(
    deployment: Deployment, version: int, settings: ServingSettings, fleet: tuple[GpuServing, ...]
) -> ModelConfig:
    """The contract on each of these GPUs."""
    from tritonclient.grpc import model_config_pb2 as pb

    config = _contract(deployment, version, settings)
    config.instance_group.add(count=settings.instances, kind=pb.ModelInstanceGroup.KIND_GPU)
    # Both are Triton's defaults, and what a transfer's speed hangs on.
    config.optimization.input_pinned_memory.enable = True
    config.optimization.output_pinned_memory.enable = True
    if all(each.plan for each in fleet):
        _serve_plans(config, deployment.model, settings, fleet)
    else:
        _serve_graph(config, deployment.model, settings, min(each.workspace_bytes for each in fleet))
    return config


def _contract(deployment: Deployment, version: int, settings: ServingSettings) -> ModelConfig:
    """What a client sees, and how requests wait."""
    from tritonclient.grpc import model_config_pb2 as pb

    model = deployment.model
    config = pb.ModelConfig(name=deployment.name, max_batch_size=settings.max_batch)
    # A version that is being written beside this one must not be served, and one that is named here must exist.
    config.version_policy.specific.versions.append(version)
    for spec in model.inputs:
        config.input.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape)
    for spec in model.outputs:
        # The file is read when the model loads, from the model's folder: the version's own labels go with its graph.
        labels = f"{version}/labels.txt"
        config.output.add(name=spec.name, data_type=_data_type(spec), dims=spec.shape, label_filename=labels)
    _queue(config.dynamic_batching, settings)
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
    about = {
        "names": json.dumps(deployment.classes, ensure_ascii=False),
        "contract": f"{deployment.head.value}/1",
        **deployment.parameters,
    }
    for key, value in about.items():
        config.parameters[key].string_value = value
    return config


def _queue(batching: Any, settings: ServingSettings) -> None:
    """Fill in ``dynamic_batching``: the delay, the bounds of the queue, and its levels."""
    # No preferred_batch_size: Triton's guide keeps it for plans with several optimization profiles.
    batching.max_queue_delay_microseconds = settings.max_queue_delay_us
    bound_queue(batching, settings)


def bound_queue(batching: Any, settings: ServingSettings) -> None:
    """Fill in how many requests ``dynamic_batching`` lets wait, how long, and their levels."""
    from tritonclient.grpc import model_config_pb2 as pb

    if settings.queue_timeout_ms:
        policy = batching.default_queue_policy
        policy.timeout_action = pb.ModelQueuePolicy.REJECT
        policy.default_timeout_microseconds = settings.queue_timeout_ms * 1000
        policy.allow_timeout_override = True
    if settings.max_queue_size:
        batching.default_queue_policy.max_queue_size = settings.max_queue_size
    if settings.priority_levels:
        batching.priority_levels = settings.priority_levels
        batching.default_priority_level = settings.default_priority


def _on_openvino(deployment: Deployment, version: int) -> ModelConfig:
    """The contract served by model.py on the Python backend."""
    from tritonclient.grpc import model_config_pb2 as pb

    cpu = deployment.cpu
    config = _contract(deployment, version, cpu.settings)
    config.backend = "python"
    # model.py runs one image at a time on each stream: waiting for company only costs time.
    config.dynamic_batching.max_queue_delay_microseconds = 0
    config.instance_group.add(count=cpu.settings.instances, kind=pb.ModelInstanceGroup.KIND_CPU)
    arithmetic = {CpuPrecision.FP32: "f32", CpuPrecision.BF16: "bf16"}[cpu.precision]
    config.parameters["inference_precision"].string_value = arithmetic
    if cpu.inference_threads is not None:
        config.parameters["inference_threads"].string_value = str(cpu.inference_threads)
    return config


def _serve_plans(
    config: ModelConfig, model: OnnxModel, settings: ServingSettings, fleet: tuple[GpuServing, ...]
) -> None:
    """Plans on the TensorRT backend: each GPU loads that of its compute capability."""
    config.backend = "tensorrt"
    for each in fleet:
        config.cc_model_filenames[each.gpu.compute_capability] = each.plan
    cuda = config.optimization.cuda
    cuda.graphs = True
    # A graph is launched for a batch of exactly its size (tensorrt_backend, instance_state.cc).
    for batch in settings.batches:
        graph = cuda.graph_spec.add(batch_size=batch)
        for spec in model.inputs:
            graph.input[spec.name].dim.extend(spec.shape)
    # Results travel to the host while the next batch computes.
    cuda.output_copy_stream = True


def _serve_graph(config: ModelConfig, model: OnnxModel, settings: ServingSettings, workspace_bytes: int) -> None:
    """model.onnx on the onnxruntime backend with its TensorRT accelerator.

    ``precision_mode`` is left out on purpose: with neither FP16 nor INT8 asked for, onnxruntime builds a strongly typed
    network (onnxruntime 1.18 and later, TensorRT 9 and later), which keeps the types that the precision stage chose.
    """
    config.backend = "onnxruntime"
    config.default_model_filename = "model.onnx"
    # onnxruntime makes this folder, one level deep, and names the engines in it by the graph's structure, not by its
    # weights: with a path of its own, retrained weights never meet the engine of the old ones.
    cache = f"{ENGINE_CACHE_PREFIX}{model.sha256[:16]}"
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    accelerator.parameters.update(
        {
            "max_workspace_size_bytes": str(workspace_bytes),
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


def _profile(inputs: tuple[TensorSpec, ...], batch: int) -> str:
    """The shapes of an optimization profile as onnxruntime reads them: ``images:8x640x640x3``."""
    return ",".join(f"{spec.name}:{'x'.join(map(str, (batch, *spec.shape)))}" for spec in inputs)


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
