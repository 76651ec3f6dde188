"""The text of the Triton configurations.

Golden files are written again, after a change that is meant, by:
    REGENERATE_GOLDEN=1 python -m pytest tests/unit/builder/test_config_pbtxt.py
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from builder.artifacts import CpuPrecision, Head, OnnxModel, TensorSpec
from builder.config_pbtxt import config_files
from builder.errors import SpecError
from builder.serving import CpuServing, ServingSettings
from tests.deployments import WORKSPACE_BYTES, deployment

GOLDEN = Path(__file__).parents[2] / "golden" / "config_pbtxt"

DETECTIONS = OnnxModel(
    path=Path("model.onnx"),
    sha256="0123456789abcdef" * 4,
    inputs=(TensorSpec(name="images", dtype="UINT8", shape=(640, 640, 3)),),
    outputs=(TensorSpec(name="detections", dtype="FP32", shape=(300, 6)),),
)
RAW = OnnxModel(
    path=Path("model.onnx"),
    sha256="fedcba9876543210" * 4,
    inputs=(TensorSpec(name="images", dtype="FP32", shape=(3, 640, 640)),),
    outputs=(TensorSpec(name="output0", dtype="FP32", shape=(7, 8400)),),
)
CLASSES = ("circle", "square", 'a "quoted" näme')


def written(model=DETECTIONS, version=1, **request):
    files = config_files(deployment(model, classes=CLASSES, **request), version)
    return {file.relative_path: file.text for file in files}


def parsed(text):
    return text_format.Parse(text, pb.ModelConfig())


@pytest.mark.parametrize(
    ("folder", "files"),
    [
        ("detections", written),
        (
            "raw",
            lambda: written(
                RAW,
                head=Head.RAW,
                gpus=["l4"],
                settings=ServingSettings(max_batch=4, instances=2),
                cpu=CpuServing(settings=ServingSettings(max_batch=4, instances=2), inference_threads=1),
                version=3,
                parameters={"metadata": "{'task': 'detect'}"},
            ),
        ),
        (
            "fleet",
            lambda: written(
                gpus=["t4", "l4"],
                settings=ServingSettings(max_batch=6, priority_levels=3),
                plans=["model_sm75.plan", "model_sm89.plan"],
            ),
        ),
    ],
)
def test_configs_equal_the_golden_files(folder, files):
    actual = files()
    if os.environ.get("REGENERATE_GOLDEN"):
        for path, text in actual.items():
            (GOLDEN / folder / path).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / folder / path).write_text(text, encoding="utf-8")
    stored = {
        str(path.relative_to(GOLDEN / folder)): path.read_text(encoding="utf-8")
        for path in (GOLDEN / folder).rglob("*.pbtxt")
    }
    assert actual == stored


def test_default_config_is_written_last_and_is_the_gpus():
    files = written(gpus=["a10"])
    assert list(files) == ["configs/cpu.pbtxt", "configs/a10.pbtxt", "config.pbtxt"]
    assert files["config.pbtxt"] == files["configs/a10.pbtxt"]


def test_same_request_gives_the_same_bytes():
    assert written(parameters={"b": "2", "a": "1"}) == written(parameters={"a": "1", "b": "2"})


@pytest.mark.parametrize("model", [DETECTIONS, RAW], ids=["detections", "raw"])
def test_every_machine_serves_one_contract(model):
    cpu, gpu, default = (parsed(text) for text in written(model, parameters={"metadata": "{}"}).values())
    assert cpu.parameters.pop("inference_precision").string_value == "f32"
    for config in (cpu, gpu, default):
        assert config.name == "shapes"
        assert [(t.name, list(t.dims)) for t in config.input] == [(t.name, list(t.shape)) for t in model.inputs]
        assert [(t.name, list(t.dims)) for t in config.output] == [(t.name, list(t.shape)) for t in model.outputs]
        assert config.max_batch_size == 8
        assert config.dynamic_batching.default_queue_policy == cpu.dynamic_batching.default_queue_policy
        assert config.model_warmup == cpu.model_warmup
        assert dict(config.parameters) == dict(cpu.parameters)
    assert (cpu.backend, gpu.backend) == ("python", "onnxruntime")
    assert [group.kind for config in (cpu, gpu) for group in config.instance_group] == [
        pb.ModelInstanceGroup.KIND_CPU,
        pb.ModelInstanceGroup.KIND_GPU,
    ]


def test_a_client_can_read_contract_and_class_names():
    config = parsed(written(RAW, head=Head.RAW, parameters={"metadata": "{'stride': 32}"})["configs/cpu.pbtxt"])
    assert config.parameters["contract"].string_value == "raw/1"
    assert json.loads(config.parameters["names"].string_value) == list(CLASSES)
    assert config.parameters["metadata"].string_value == "{'stride': 32}"


def test_version_and_labels_are_the_published_versions_own():
    for text in written(version=7).values():
        config = parsed(text)
        assert list(config.version_policy.specific.versions) == [7]
        assert [output.label_filename for output in config.output] == ["7/labels.txt"]


def test_queue_is_bounded_and_late_requests_are_refused():
    queue = parsed(written()["config.pbtxt"]).dynamic_batching.default_queue_policy
    assert queue.timeout_action == pb.ModelQueuePolicy.REJECT
    assert (queue.max_queue_size, queue.default_timeout_microseconds) == (128, 1_000_000)
    assert queue.allow_timeout_override


@pytest.mark.parametrize(("max_batch", "batches"), [(1, [1]), (2, [1, 2]), (16, [1, 16])])
def test_warmup_covers_one_image_and_the_largest_batch_once_each(max_batch, batches):
    settings = ServingSettings(max_batch=max_batch)
    for text in written(settings=settings).values():
        samples = parsed(text).model_warmup
        assert [(sample.name, sample.batch_size) for sample in samples] == [(f"batch_{n}", n) for n in batches]
        assert all(list(sample.inputs["images"].dims) == [640, 640, 3] for sample in samples)


def test_warmup_pixels_are_random_and_floats_are_zero():
    pixels = parsed(written()["config.pbtxt"]).model_warmup[0].inputs["images"]
    floats = parsed(written(RAW, head=Head.RAW)["config.pbtxt"]).model_warmup[0].inputs["images"]
    assert (pixels.random_data, pixels.zero_data) == (True, False)
    assert (floats.random_data, floats.zero_data) == (False, True)


def tensorrt_parameters(**request):
    (accelerator,) = parsed(
        written(**request)["config.pbtxt"]
    ).optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    return dict(accelerator.parameters)


def test_engine_is_built_for_every_batch_at_load_time():
    parameters = tensorrt_parameters(settings=ServingSettings(max_batch=4))
    assert parameters["trt_profile_min_shapes"] == "images:1x640x640x3"
    assert parameters["trt_profile_opt_shapes"] == "images:4x640x640x3"
    assert parameters["trt_profile_max_shapes"] == "images:4x640x640x3"


def test_precision_is_left_to_the_graph():
    assert "precision_mode" not in tensorrt_parameters()


def test_other_weights_never_meet_a_cached_engine_of_these():
    retrained = replace(DETECTIONS, sha256="f" * 64)
    paths = {tensorrt_parameters(model=model)["trt_engine_cache_path"] for model in (DETECTIONS, retrained)}
    assert len(paths) == 2
    # onnxruntime makes the folder with one mkdir: its parent has to be there already.
    assert {str(Path(path).parent) for path in paths} == {"/tmp"}


def test_workspace_is_the_gpus_own():
    assert tensorrt_parameters()["max_workspace_size_bytes"] == str(WORKSPACE_BYTES)


def test_threads_are_written_for_the_cpu_only_and_only_when_asked_for():
    asked = written(cpu=CpuServing(inference_threads=3))
    assert parsed(asked["configs/cpu.pbtxt"]).parameters["inference_threads"].string_value == "3"
    assert "inference_threads" not in asked["config.pbtxt"]
    assert "inference_threads" not in written()["configs/cpu.pbtxt"]


def test_the_arithmetic_of_a_cpu_is_written_for_it_alone():
    half = written(cpu=CpuServing(precision=CpuPrecision.BF16))
    assert parsed(half["configs/cpu.pbtxt"]).parameters["inference_precision"].string_value == "bf16"
    assert parsed(written()["configs/cpu.pbtxt"]).parameters["inference_precision"].string_value == "f32"
    assert "inference_precision" not in half["config.pbtxt"]


def test_waiting_for_company_is_for_gpus():
    configs = {path: parsed(text).dynamic_batching for path, text in written().items()}
    assert configs["config.pbtxt"].max_queue_delay_microseconds == 500
    assert configs["configs/cpu.pbtxt"].max_queue_delay_microseconds == 0


def test_without_bound_and_timeout_there_is_no_queue_policy():
    # Triton's batcher treats any policy, even an empty one with an override, as a reason not to prefetch.
    for text in written(settings=ServingSettings(max_queue_size=0, queue_timeout_ms=0)).values():
        assert "dynamic_batching" in text
        assert "default_queue_policy" not in text
    only_bound = parsed(written(settings=ServingSettings(queue_timeout_ms=0))["config.pbtxt"]).dynamic_batching
    assert (only_bound.default_queue_policy.max_queue_size, only_bound.default_queue_policy.allow_timeout_override) == (
        128,
        False,
    )


def test_a_variable_image_size_is_refused():
    variable = replace(DETECTIONS, inputs=(TensorSpec(name="images", dtype="UINT8", shape=(-1, -1, 3)),))
    with pytest.raises(SpecError, match=r"input images: expected a fixed size, got \[-1, -1, 3\]"):
        written(variable)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_batch", 0),
        ("instances", -1),
        ("instances", 1.5),
        ("max_queue_delay_us", -1),
        ("max_queue_size", 7),
        ("queue_timeout_ms", -1),
        ("priority_levels", -1),
        ("max_queue_delay_us", 1_000_000),
        ("max_batch", True),
        ("max_batch", None),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(field, value):
    with pytest.raises(SpecError, match=f"{field}: expected"):
        ServingSettings(**{field: value})


def test_no_queue_delay_is_allowed():
    assert parsed(written(settings=ServingSettings(max_queue_delay_us=0))["config.pbtxt"]).HasField("dynamic_batching")


def test_less_than_one_thread_is_refused():
    with pytest.raises(SpecError, match="inference_threads: expected at least 1, got 0"):
        CpuServing(inference_threads=0)


class TestPlans:
    """``config.pbtxt`` names the plans when every GPU of the fleet has one."""

    def test_each_gpu_loads_the_plan_of_its_compute_capability(self):
        files = written(gpus=["t4", "l4"], plans=["model_sm75.plan", "model_sm89.plan"])
        fleet, t4 = parsed(files["config.pbtxt"]), parsed(files["configs/t4.pbtxt"])
        assert fleet.backend == t4.backend == "tensorrt"
        assert dict(fleet.cc_model_filenames) == {"7.5": "model_sm75.plan", "8.9": "model_sm89.plan"}
        assert dict(t4.cc_model_filenames) == {"7.5": "model_sm75.plan"}
        assert not fleet.optimization.HasField("execution_accelerators")

    def test_a_fleet_that_lacks_a_plan_is_served_by_the_graph_and_the_gpu_that_has_one_by_it(self):
        files = written(gpus=["t4", "l4"], plans=["model_sm75.plan", None])
        assert parsed(files["config.pbtxt"]).backend == "onnxruntime"
        assert parsed(files["configs/l4.pbtxt"]).backend == "onnxruntime"
        assert parsed(files["configs/t4.pbtxt"]).backend == "tensorrt"

    @pytest.mark.parametrize(("max_batch", "captured"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
    def test_cuda_graphs_are_captured_for_powers_of_two_and_the_largest_batch(self, max_batch, captured):
        settings = ServingSettings(max_batch=max_batch)
        config = parsed(written(settings=settings, plans=["model_sm75.plan"])["config.pbtxt"])
        assert config.optimization.cuda.graphs
        assert [spec.batch_size for spec in config.optimization.cuda.graph_spec] == captured
        assert all(list(spec.input["images"].dim) == [640, 640, 3] for spec in config.optimization.cuda.graph_spec)

    def test_memory_is_pinned_on_every_gpu_and_not_on_a_cpu(self):
        for path, text in written(gpus=["t4", "l4"], plans=["model_sm75.plan", None]).items():
            pinned = parsed(text).optimization
            assert pinned.input_pinned_memory.enable == (path != "configs/cpu.pbtxt")
            assert pinned.output_pinned_memory.enable == (path != "configs/cpu.pbtxt")


@pytest.mark.parametrize(("levels", "default"), [(1, 1), (2, 2), (3, 2), (5, 3)])
def test_a_request_that_names_no_priority_leaves_room_above(levels, default):
    for text in written(settings=ServingSettings(priority_levels=levels)).values():
        batching = parsed(text).dynamic_batching
        assert (batching.priority_levels, batching.default_priority_level) == (levels, default)


def test_without_priority_levels_none_are_written():
    assert "priority" not in written()["config.pbtxt"]


def test_the_fleets_settings_are_what_every_gpu_can_take():
    both = deployment(DETECTIONS, gpus=["t4", "l4"])
    t4, l4 = both.fleet
    small = ServingSettings(max_batch=4, instances=1, max_queue_size=0, queue_timeout_ms=20)
    large = ServingSettings(max_batch=32, instances=2, max_queue_size=64, queue_timeout_ms=0, max_queue_delay_us=0)
    mixed = replace(both, fleet=(replace(t4, settings=small), replace(l4, settings=large, workspace_bytes=5)))
    assert mixed.whole_fleet == ServingSettings(
        max_batch=4, instances=1, max_queue_delay_us=0, max_queue_size=64, queue_timeout_ms=20
    )
    config = parsed({file.relative_path: file.text for file in config_files(mixed, 1)}["config.pbtxt"])
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert (config.max_batch_size, accelerator.parameters["max_workspace_size_bytes"]) == (4, "5")
