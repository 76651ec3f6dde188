"""The models beside a detector by which it takes encoded images."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from builder.artifacts import Head, OnnxModel, TensorSpec
from builder.doctor.diagnosis import diagnose
from builder.ensemble import DECODE_MODULES, SELECT_MODULES, ExtraModel, encoded_models
from builder.errors import SpecError
from builder.repository import publish_content
from builder.serving import ServingSettings
from builder.verify import verify
from tests.deployments import deployment
from tests.published import publish_shapes

ROOT = Path(__file__).resolve().parents[3]
MODEL = OnnxModel(
    path=Path("model.onnx"),
    sha256="1" * 64,
    inputs=(TensorSpec(name="images", dtype="UINT8", shape=(384, 640, 3)),),
    outputs=(TensorSpec(name="detections", dtype="FP32", shape=(300, 6)),),
)


def config_of(extra: ExtraModel, version: int = 1) -> pb.ModelConfig:
    (config,) = extra.configs(version)
    assert config.relative_path == "config.pbtxt"
    return text_format.Parse(config.text, pb.ModelConfig())


def models(**options) -> dict[str, ExtraModel]:
    return {extra.name: extra for extra in encoded_models(deployment(MODEL, **options))}


def dims(tensors) -> dict[str, tuple[str, list[int]]]:
    return {each.name: (pb.DataType.Name(each.data_type), list(each.dims)) for each in tensors}


def test_each_comes_after_those_that_it_needs():
    assert list(models()) == ["shapes_decode", "shapes_select", "shapes_jpeg"]


def test_ensemble_takes_bytes_and_answers_with_as_many_rows_as_are_left():
    config = config_of(models()["shapes_jpeg"], 7)
    assert config.platform == "ensemble"
    assert config.max_batch_size == 0
    assert list(config.version_policy.specific.versions) == [7]
    assert dims(config.input) == {"encoded": ("TYPE_STRING", [1])}
    assert dims(config.output) == {
        "detections": ("TYPE_FP32", [-1, 6]),
        "xyxy": ("TYPE_FP32", [-1, 4]),
        "confidence": ("TYPE_FP32", [-1]),
        "class_id": ("TYPE_INT32", [-1]),
        "count": ("TYPE_INT32", [1]),
        "image_hw": ("TYPE_INT32", [2]),
    }
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "contract": "encoded/1",
        "names": '["circle", "square"]',
        "size_hw": "[384, 640]",
        "max_detections": "300",
    }


def test_every_tensor_of_a_step_is_made_by_a_step_before_it():
    by_name = models()
    ensemble = config_of(by_name["shapes_jpeg"])
    tensors = {each.name for each in ensemble.input}
    for step in ensemble.ensemble_scheduling.step:
        assert set(step.input_map.values()) <= tensors
        tensors |= set(step.output_map.values())
        if step.model_name in by_name:
            config = config_of(by_name[step.model_name])
            assert set(step.input_map) == {each.name for each in config.input}
            assert set(step.output_map) == {each.name for each in config.output}
    assert {each.name for each in ensemble.output} <= tensors
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == [
        "shapes_decode",
        "shapes",
        "shapes_select",
    ]


def test_decoding_waits_as_the_detector_does():
    settings = ServingSettings(max_batch=4, max_queue_size=9, queue_timeout_ms=250, priority_levels=3)
    config = config_of(models(settings=settings)["shapes_decode"])
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (9, 250_000)
    assert policy.timeout_action == pb.ModelQueuePolicy.REJECT
    assert (config.dynamic_batching.priority_levels, config.dynamic_batching.default_priority_level) == (3, 2)
    # With one that is busy, Triton's batcher may let a request lie.
    assert config.instance_group[0].count >= 2
    assert dims(config.output)["images"] == ("TYPE_UINT8", [1, 384, 640, 3])


def test_nothing_bounds_the_queue_where_nothing_bounds_the_detectors():
    config = config_of(models(settings=ServingSettings(max_queue_size=0, queue_timeout_ms=0))["shapes_decode"])
    assert not config.HasField("dynamic_batching")


def test_no_step_needs_a_gpu():
    for name in ("shapes_decode", "shapes_select"):
        config = config_of(models(gpus=("t4", "l4"))[name])
        assert config.backend == "python"
        assert [group.kind for group in config.instance_group] == [pb.ModelInstanceGroup.KIND_CPU]


def test_raw_head_has_no_boxes_to_bring_back():
    with pytest.raises(SpecError, match="expected head detections, got raw"):
        encoded_models(deployment(MODEL, head=Head.RAW))


def test_name_that_grows_too_long_is_refused():
    assert encoded_models(deployment(MODEL, "n" * 93))
    with pytest.raises(SpecError, match="expected 1 to 100 letters"):
        encoded_models(deployment(MODEL, "n" * 94))


@pytest.mark.parametrize(("name", "modules"), [("shapes_decode", DECODE_MODULES), ("shapes_select", SELECT_MODULES)])
def test_copies_beside_the_model_need_nothing_else_of_the_project(tmp_path: Path, name, modules):
    """In a Python that has the packages of this one, but neither builder nor clients."""
    for path, content in models()[name].files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert {path.stem for path in (tmp_path / "clients").iterdir()} == {"__init__", *modules}
    program = """
import importlib, json, sys
folder, modules = sys.argv[1], sys.argv[2:]
sys.meta_path = [each for each in sys.meta_path if "editable" not in repr(each)]
sys.path = [folder, *(each for each in sys.path if each != "")]
for module in modules:
    importlib.import_module(f"clients.{module}")
print(json.dumps([module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "clients"]))
"""
    command = [sys.executable, "-c", program, str(tmp_path), *modules]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    files = {Path(file) for file in json.loads(run.stdout)}
    assert files == {tmp_path / "clients" / f"{module}.py" for module in ("__init__", *modules)}


def test_same_code_on_either_side_of_the_wire():
    for extra in models().values():
        for path, content in extra.files.items():
            if path.startswith("clients/") and not path.endswith("__init__.py"):
                assert content == (ROOT / path).read_bytes()


class TestPublished:
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Path:
        folder = tmp_path / "repository"
        publish_shapes(folder, tmp_path)
        for extra in encoded_models(deployment(MODEL)):
            publish_content(folder, extra.name, extra.content)
        return folder

    def test_is_verified_like_any_model(self, repository: Path):
        reports = verify(repository)
        assert [(report.model, report.version) for report in reports if report.ok] == [
            ("shapes", 1),
            ("shapes_decode", 1),
            ("shapes_jpeg", 1),
            ("shapes_select", 1),
        ]
        (repository / "shapes_decode" / "1" / "clients" / "images.py").write_text("")
        (damaged,) = (report for report in verify(repository) if not report.ok)
        assert damaged.model == "shapes_decode"

    def test_doctor_finds_nothing_in_it(self, repository: Path):
        findings = [each for each in diagnose(repository) if not each.where.startswith("shapes/")]
        assert findings == []

    def test_retrained_weights_publish_nothing_again(self, repository: Path):
        retrained = dataclasses.replace(MODEL, sha256="2" * 64)
        for extra in encoded_models(deployment(retrained)):
            assert not publish_content(repository, extra.name, extra.content).changed

    def test_other_classes_are_a_new_version_of_what_knows_them(self, repository: Path):
        changed = [
            extra.name
            for extra in encoded_models(deployment(MODEL, classes=("star", "moon")))
            if publish_content(repository, extra.name, extra.content).version == 2
        ]
        assert changed == ["shapes_select", "shapes_jpeg"]
