"""Whatever is asked for: every configuration is one for Triton, keeps the contract, and suits its GPUs."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb

from builder.artifacts import Head, OnnxModel, TensorSpec
from builder.cache import file_sha256
from builder.deployment import Deployment
from builder.errors import BuilderError
from builder.export import export_network
from builder.graph_cost import GraphCost, graph_cost
from builder.head import attach_head
from builder.serving import GpuServing, ServingSettings
from builder.spec import BuildSpec
from builder.weights import load_network
from tests.fleets import CLASS_NAMES, build_flags, deployed
from tests.networks import head_spec, live_model, save_checkpoint


@functools.cache
def graph(head: Head) -> tuple[OnnxModel, GraphCost]:
    """A real network's graph as it is described, and its cost."""
    shapes = {
        Head.DETECTIONS: (("images", "UINT8", (640, 640, 3)), ("detections", "FP32", (300, 6))),
        Head.RAW: (("images", "FP32", (3, 640, 640)), ("output0", "FP32", (7, 8400))),
    }
    image, output = (TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in shapes[head])
    with tempfile.TemporaryDirectory() as folder:
        weights = save_checkpoint(live_model("yolo11n"), Path(folder) / "m.pt")
        network = export_network(load_network(weights), (640, 640), Path(folder) / "network.onnx")
        path = Path(folder) / "model.onnx"
        attach_head(network, head_spec(network, head), path)
        return OnnxModel(path=path, sha256=file_sha256(path), inputs=(image,), outputs=(output,)), graph_cost(path)


def read(text: str) -> Any:
    """The configuration, which is printed as it was written."""
    config = text_format.Parse(text, pb.ModelConfig())
    printed = text_format.MessageToString(config, as_utf8=True, use_short_repeated_primitives=True)
    assert printed == text
    return config


def check_contract(config: Any, deployment: Deployment, version: int) -> None:
    """What a client relies on, the same on every machine."""
    model = deployment.model
    assert config.name == deployment.name
    assert list(config.version_policy.specific.versions) == [version]
    for written, specs in ((config.input, model.inputs), (config.output, model.outputs)):
        assert [(t.name, pb.DataType.Name(t.data_type), tuple(t.dims)) for t in written] == [
            (spec.name, f"TYPE_{spec.dtype}", spec.shape) for spec in specs
        ]
    assert {output.label_filename for output in config.output} == {f"{version}/labels.txt"}
    assert json.loads(config.parameters["names"].string_value) == list(deployment.classes)
    assert config.parameters["contract"].string_value == f"{deployment.head.value}/1"
    assert ("metadata" in config.parameters) == (deployment.head is Head.RAW)


def check_scheduling(config: Any, serving: ServingSettings, spec: BuildSpec) -> None:
    """Batches, queue, priorities and warmup fit each other, and what was asked for."""
    assert config.max_batch_size == serving.max_batch >= 1
    assert spec.max_batch in (None, serving.max_batch)
    batching = config.dynamic_batching
    assert batching.priority_levels == spec.priority_levels
    if spec.priority_levels:
        assert 1 <= batching.default_priority_level <= batching.priority_levels
    else:
        assert batching.default_priority_level == 0
    policy = batching.default_queue_policy
    assert policy.max_queue_size == 0 or policy.max_queue_size >= config.max_batch_size
    assert spec.max_queue_size in (None, policy.max_queue_size)
    if spec.queue_timeout_ms is not None:
        assert policy.default_timeout_microseconds == spec.queue_timeout_ms * 1000
    assert policy.allow_timeout_override == bool(policy.default_timeout_microseconds)
    if policy.default_timeout_microseconds:
        assert batching.max_queue_delay_microseconds < policy.default_timeout_microseconds
        assert policy.timeout_action == pb.ModelQueuePolicy.REJECT
    warmed = [sample.batch_size for sample in config.model_warmup]
    assert len({sample.name for sample in config.model_warmup}) == len(warmed)
    assert {1, config.max_batch_size} <= set(warmed)
    assert max(warmed) == config.max_batch_size
    for sample in config.model_warmup:
        assert {name: tuple(tensor.dims) for name, tensor in sample.inputs.items()} == {
            tensor.name: tuple(tensor.dims) for tensor in config.input
        }
    assert [group.count for group in config.instance_group] == [serving.instances]


def check_on_gpus(config: Any, served: tuple[GpuServing, ...], model: OnnxModel) -> None:
    """The plans of exactly these GPUs, or the graph where one of them has none."""
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    shape = "x".join(map(str, model.inputs[0].shape))
    if all(each.plan for each in served):
        assert config.backend == "tensorrt"
        assert dict(config.cc_model_filenames) == {each.gpu.compute_capability: each.plan for each in served}
        assert not config.default_model_filename
        captured = [graph.batch_size for graph in config.optimization.cuda.graph_spec]
        assert len(set(captured)) == len(captured)
        assert min(captured) == 1
        assert max(captured) == config.max_batch_size
        assert not config.optimization.HasField("execution_accelerators")
        return
    assert config.backend == "onnxruntime"
    assert not config.cc_model_filenames
    assert config.default_model_filename == "model.onnx"
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.parameters["trt_profile_min_shapes"] == f"images:1x{shape}"
    assert accelerator.parameters["trt_profile_max_shapes"] == f"images:{config.max_batch_size}x{shape}"
    # For 0, onnxruntime takes its own default.
    assert int(accelerator.parameters["max_workspace_size_bytes"]) > 0
    assert not config.optimization.HasField("cuda")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    flags=build_flags(),
    classes=st.lists(CLASS_NAMES, min_size=1, max_size=4, unique=True).map(tuple),
    version=st.integers(1, 1 << 40),
    plans=st.booleans() | st.frozensets(st.integers(0, 3)),
)
def test_every_configuration_that_flags_can_give_is_one_for_triton(
    flags: dict[str, Any], classes: tuple[str, ...], version: int, plans: bool | frozenset[int]
) -> None:
    model, cost = graph(Head(flags.get("head", Head.DETECTIONS)))
    fleet = [name.replace(":", "-") for name in flags["gpu"]]
    with_plan = plans if isinstance(plans, bool) else frozenset(fleet[i] for i in plans if i < len(fleet))
    try:
        spec, deployment = deployed(flags, model, cost, classes=classes, with_plan=with_plan)
    except BuilderError:
        # Two GPUs of one capability, more than the memory holds, a queue below a batch: refused before anything is
        # written, which other tests look at.
        assume(False)
        raise
    configs = {each.relative_path: read(each.text) for each in deployment.configs(version)}
    by_gpu = {f"configs/{each.gpu.name}.pbtxt": each for each in deployment.fleet}
    assert set(configs) == {"config.pbtxt", "configs/cpu.pbtxt", *by_gpu}
    for config in configs.values():
        check_contract(config, deployment, version)
    for path, each in by_gpu.items():
        check_scheduling(configs[path], each.settings, spec)
        check_on_gpus(configs[path], (each,), deployment.model)
        assert spec.instances in (None, each.settings.instances)
    whole = configs["config.pbtxt"]
    check_scheduling(whole, deployment.whole_fleet, spec)
    check_on_gpus(whole, deployment.fleet, deployment.model)
    # No GPU of the fleet gets more at once than its own configuration allows it.
    assert whole.max_batch_size == min(configs[path].max_batch_size for path in by_gpu)
    on_cpu = configs["configs/cpu.pbtxt"]
    check_scheduling(on_cpu, deployment.cpu.settings, spec)
    assert on_cpu.backend == "python"
    assert on_cpu.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    assert not on_cpu.cc_model_filenames
    assert not on_cpu.HasField("optimization")
