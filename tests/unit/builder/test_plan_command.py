"""Plans that are added to a published model.

No GPU is at hand: TensorRT-RTX compiles each plan for the GPU's compute capability in TensorRT's place, and the machine
is told, not read. All else is what ``python -m builder plan`` runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as pb

from builder import engine, plan_command
from builder.artifacts import NetworkModel, NetworkOutput, OnnxModel, TensorSpec
from builder.cache import StageCache, file_sha256
from builder.deployment import deployment_of, graph_to_json, serving_to_json, version_content
from builder.engine import CompileRefusedError, HardwareCompatibility, Library
from builder.errors import RepositoryError, SpecError
from builder.gpus import find_gpu
from builder.graph_cost import graph_cost
from builder.manifest import read_manifest, versions_of
from builder.memory import memory_budget
from builder.nvml import NvmlDevice
from builder.plan_building import Machine, check_tensorrt, timing_cache_path
from builder.plan_command import add_plan
from builder.plans import published_plans
from builder.releases import find_release
from builder.repository import publish_content
from builder.serving import ServingSettings
from builder.verify import verify
from tests.deployments import deployment

CLASSES = ("circle", "square")


def graph(path: Path, seed: float = 1.0) -> OnnxModel:
    """Brightness of each image, in the contract's shapes but for the number of rows."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 32, 32, 3])
    out = helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["batch", 1, 6])
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["pixels"], ["brightest"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["brightest", "column"], ["brightest_B11"]),
        helper.make_node("Mul", ["brightest_B11", "scale"], ["detections"]),
    ]
    constants = [
        helper.make_tensor("column", TensorProto.INT64, [3], [-1, 1, 1]),
        helper.make_tensor("scale", TensorProto.FLOAT, [1, 1, 6], [seed] * 6),
    ]
    body = helper.make_graph(nodes, "brightest", [images], [out], constants)
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return OnnxModel(
        path=path,
        sha256=file_sha256(path),
        inputs=(TensorSpec(name="images", dtype="UINT8", shape=(32, 32, 3)),),
        outputs=(TensorSpec(name="detections", dtype="FP32", shape=(1, 6)),),
    )


def publish_fleet(repository: Path, model: OnnxModel, gpus=("t4", "a10"), compatibility=HardwareCompatibility.NONE):
    """What ``build`` publishes on a machine with no GPU."""
    served = deployment(model, gpus=gpus, classes=CLASSES, settings=ServingSettings(max_batch=4))
    network = NetworkModel(
        path=model.path,
        output=NetworkOutput.LOGITS,
        imgsz=(32, 32),
        strides=(8, 16, 32),
        reg_max=1,
        names=CLASSES,
        nms_free=False,
        parameters=6,
    )
    build = {
        "spec": {"head": "detections", "hardware_compatibility": compatibility.value, "optimization_level": None},
        "network": network.to_json(),
        "graph": graph_to_json(model),
        "cpu": dataclasses.asdict(served.cpu),
        "gpus": {each.gpu.name: {**serving_to_json(each), "memory": budget(each, model)} for each in served.fleet},
    }
    files = {"model.onnx": model.path, "model.py": b"# serves\n", "labels.txt": b"circle\nsquare\n"}
    content = version_content(served, {}, compatibility, files=files, build=build)
    return publish_content(repository, "shapes", lambda: content)


def budget(serving, model: OnnxModel):
    return memory_budget(graph_cost(model.path), model, serving.gpu, batch=4, instances=2).to_json()


def machine(gpu: str, *, free_bytes: int | None = None) -> Machine:
    target = find_gpu(gpu)
    device = NvmlDevice(
        name=f"NVIDIA {gpu.upper()}",
        compute_capability=target.compute_capability,
        memory_gb=target.memory_gb,
        free_bytes=free_bytes,
        driver_version="580.65.06",
    )
    return Machine(gpu=target, device=device, tensorrt="10.13.3.9")


def by_tensorrt_rtx(capability: str, device_memory_bytes: int | None = None):
    """``build_plan`` with the one library that compiles here; it cannot tell the plan's memory without a GPU."""

    def build(model, profiles, path, *, options, progress):
        # It has neither the levels nor a timing cache that is more than a name.
        options = dataclasses.replace(options, hardware_compatibility=HardwareCompatibility.NONE, timing_cache=None)
        plan = engine.build_plan(
            model,
            profiles,
            path,
            library=Library.TENSORRT_RTX,
            compute_capability=capability,
            options=options,
            progress=progress,
        )
        return dataclasses.replace(plan, device_memory_bytes=device_memory_bytes)

    return build


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> OnnxModel:
    return graph(tmp_path_factory.mktemp("graph") / "model.onnx")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> StageCache:
    return StageCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def repository(tmp_path: Path, model: OnnxModel) -> Path:
    publish_fleet(tmp_path / "repository", model)
    return tmp_path / "repository"


def add(repository: Path, gpu: str, cache: StageCache, **options):
    capability = find_gpu(gpu).compute_capability
    return add_plan(repository, "shapes", machine(gpu), cache=cache, build=by_tensorrt_rtx(capability), **options)


def config(path: Path):
    return text_format.Parse(path.read_text(), pb.ModelConfig())


def plans_in(repository: Path, version: int) -> list[str]:
    return sorted(each.name for each in (repository / "shapes" / str(version)).glob("*.plan"))


def test_the_first_plan_serves_its_own_gpu_and_the_fleet_waits(repository: Path, cache: StageCache) -> None:
    added = add(repository, "t4", cache, triton="25.09")
    shapes = repository / "shapes"
    assert (added.published.version, added.published.changed) == (2, True)
    assert [each.gpu.name for each in added.waiting] == ["a10"]
    assert (shapes / "2" / "model_sm75.plan").stat().st_size > 1000
    assert config(shapes / "configs/t4.pbtxt").backend == "tensorrt"
    assert dict(config(shapes / "configs/t4.pbtxt").cc_model_filenames) == {"7.5": "model_sm75.plan"}
    assert config(shapes / "configs/a10.pbtxt").backend == "onnxruntime"
    assert config(shapes / "config.pbtxt").backend == "onnxruntime"
    assert (shapes / "2" / "labels.txt").read_text() == "circle\nsquare\n"
    (record,) = read_manifest(shapes / "2")["build"]["plans"]
    assert record["graph_sha256"] == file_sha256(shapes / "2" / "model.onnx")
    assert record["profiles"] == [{"batch_min": 1, "batch_opt": 4, "batch_max": 4, "imgsz": None}]
    assert {key: record[key] for key in ("gpus", "device", "driver", "triton", "compute_capability")} == {
        "gpus": ["t4"],
        "device": "NVIDIA T4",
        "driver": "580.65.06",
        "triton": "25.09",
        "compute_capability": "7.5",
    }
    assert all(report.ok for report in verify(repository))


def test_with_the_last_plan_the_fleet_is_served_by_plans(repository: Path, cache: StageCache) -> None:
    add(repository, "t4", cache)
    added = add(repository, "a10", cache)
    assert (added.published.version, added.waiting) == (3, ())
    fleet = config(repository / "shapes" / "config.pbtxt")
    assert fleet.backend == "tensorrt"
    assert dict(fleet.cc_model_filenames) == {"7.5": "model_sm75.plan", "8.6": "model_sm86.plan"}
    assert {each.name for each in (repository / "shapes" / "3").glob("*.plan")} == {
        "model_sm75.plan",
        "model_sm86.plan",
    }
    assert all(report.ok for report in verify(repository))


def test_a_plan_that_is_there_is_not_built_or_published_again(repository: Path, cache: StageCache) -> None:
    add(repository, "t4", cache)
    again = add(repository, "t4", cache)
    assert (again.stage.reused, again.published.changed, again.published.version) == (True, False, 2)


def test_a_plan_that_another_gpu_published_meanwhile_is_kept(repository: Path, cache: StageCache) -> None:
    inner = by_tensorrt_rtx("8.6")

    def slow(*arguments, **options):
        add(repository, "t4", cache)
        return inner(*arguments, **options)

    added = add_plan(repository, "shapes", machine("a10"), cache=StageCache(repository.parent / "own"), build=slow)
    assert added.waiting == ()
    assert {each.name for each in (repository / "shapes" / "3").glob("*.plan")} == {
        "model_sm75.plan",
        "model_sm86.plan",
    }


def test_a_graph_that_was_replaced_meanwhile_does_not_get_the_plan(repository: Path, tmp_path: Path) -> None:
    inner = by_tensorrt_rtx("7.5")

    def slow(*arguments, **options):
        publish_fleet(repository, graph(tmp_path / "other.onnx", seed=2.0))
        return inner(*arguments, **options)

    with pytest.raises(RepositoryError, match="was published while the plan was being built, and has another graph"):
        add_plan(repository, "shapes", machine("t4"), cache=StageCache(tmp_path / "own"), build=slow)
    assert not list((repository / "shapes").rglob("*.plan"))


def test_a_build_of_the_same_graph_keeps_the_plans(repository: Path, model: OnnxModel, cache: StageCache) -> None:
    add(repository, "t4", cache)
    fleet = deployment_of("shapes", repository / "shapes" / "2", read_manifest(repository / "shapes" / "2")["build"])
    kept = published_plans(repository / "shapes", model.sha256, fleet.fleet, HardwareCompatibility.NONE)
    assert list(kept) == ["model_sm75.plan"]
    larger = [dataclasses.replace(each, settings=ServingSettings(max_batch=5)) for each in fleet.fleet]
    assert published_plans(repository / "shapes", model.sha256, larger, HardwareCompatibility.NONE) == {}
    assert published_plans(repository / "shapes", "0" * 64, fleet.fleet, HardwareCompatibility.NONE) == {}
    sharing = HardwareCompatibility.SAME_COMPUTE_CAPABILITY
    assert published_plans(repository / "shapes", model.sha256, fleet.fleet, sharing) == {}
    plan = repository / "shapes" / "2" / "model_sm75.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    assert published_plans(repository / "shapes", model.sha256, fleet.fleet, HardwareCompatibility.NONE) == {}


def test_the_engines_own_memory_replaces_the_estimate_and_the_difference_is_told(
    repository: Path, tmp_path: Path
) -> None:
    build = by_tensorrt_rtx("7.5", device_memory_bytes=12_300_000)
    added = add_plan(repository, "shapes", machine("t4"), cache=StageCache(tmp_path / "own"), build=build)
    t4, a10 = (read_manifest(added.published.path)["build"]["gpus"][gpu]["memory"] for gpu in ("t4", "a10"))
    assert (t4["source"], t4["activation_bytes"], t4["workspace_bytes"]) == ("engine", 12_300_000, 0)
    assert (a10["source"], a10["workspace_bytes"] > 0) == ("estimated", True)
    assert any("the engine takes 12.3 MB" in line for line in plan_command.lines(added))


def test_gpus_that_share_a_plan_wait_for_one(tmp_path: Path, model: OnnxModel, cache: StageCache) -> None:
    sharing = HardwareCompatibility.SAME_COMPUTE_CAPABILITY
    publish_fleet(tmp_path / "repository", model, gpus=("a2", "a10"), compatibility=sharing)
    added = add(tmp_path / "repository", "a10", cache)
    assert added.waiting == ()
    assert set(added.plan.record.gpus) == {"a2", "a10"}
    a2 = config(tmp_path / "repository" / "shapes" / "configs" / "a2.pbtxt")
    assert dict(a2.cc_model_filenames) == {"8.6": "model_sm86.plan"}


def test_workspace_is_no_more_than_the_gpu_has_left(repository: Path, cache: StageCache) -> None:
    seen = []

    def build(model, profiles, path, *, options, progress):
        seen.append(options.workspace_bytes)
        return by_tensorrt_rtx("7.5")(model, profiles, path, options=options, progress=progress)

    add_plan(repository, "shapes", machine("t4", free_bytes=1 << 28), cache=cache, build=build)
    assert seen == [1 << 28]


def test_a_gpu_that_the_model_was_not_built_for_is_refused(repository: Path, cache: StageCache) -> None:
    with pytest.raises(SpecError, match=r"built for a10, t4, this machine's GPU is l4; .* --gpu a10 --gpu t4 --gpu l4"):
        add(repository, "l4", cache)


def test_a_damaged_version_gets_no_plan(repository: Path, cache: StageCache) -> None:
    (repository / "shapes" / "1" / "labels.txt").write_text("circle\n")
    with pytest.raises(RepositoryError, match=r"not as it was published: labels.txt: expected 14 bytes, found 7"):
        add(repository, "t4", cache)


def test_a_manifest_that_lacks_the_serving_says_to_build_again(
    tmp_path: Path, model: OnnxModel, cache: StageCache
) -> None:
    content = version_content(
        deployment(model), {}, HardwareCompatibility.NONE, files={"model.onnx": model.path}, build={"spec": {}}
    )
    publish_content(tmp_path / "repository", "shapes", lambda: content)
    with pytest.raises(RepositoryError, match="published by an older release of this project; run the build again"):
        add(tmp_path / "repository", "t4", cache)


def test_a_refusal_of_the_compiler_publishes_nothing(repository: Path, tmp_path: Path) -> None:
    def refuse(*_arguments, **_options):
        raise CompileRefusedError("no tactic")

    with pytest.raises(CompileRefusedError, match="no tactic"):
        add_plan(repository, "shapes", machine("t4"), cache=StageCache(tmp_path / "own"), build=refuse)
    assert versions_of(repository / "shapes") == [1]


def test_timings_are_kept_by_gpu_driver_and_version(tmp_path: Path) -> None:
    paths = {
        timing_cache_path(tmp_path, each)
        for each in (
            machine("t4"),
            machine("l4"),
            dataclasses.replace(machine("t4"), tensorrt="11.3.0.1"),
            dataclasses.replace(
                machine("t4"), device=dataclasses.replace(machine("t4").device, driver_version="590.1")
            ),
        )
    }
    assert len(paths) == 4
    assert timing_cache_path(tmp_path, machine("t4")).name == "nvidia-t4-580.65.06-10.13.3.9.cache"


class TestTensorRTVersion:
    def test_another_than_the_images_is_refused_with_what_to_install(self, monkeypatch) -> None:
        monkeypatch.setenv("TRT_VERSION", "10.13.3.9+cuda13.0")
        check_tensorrt("10.13.3.9", None)
        with pytest.raises(SpecError, match=r"image's TensorRT is 10.13.3.9, Python's is 10.14.1.48.*tensorrt==10.13"):
            check_tensorrt("10.14.1.48", None)

    def test_another_than_the_releases_is_refused_with_the_image_to_use(self, monkeypatch) -> None:
        monkeypatch.delenv("TRT_VERSION", raising=False)
        release = find_release("26.09")
        check_tensorrt(f"{release.tensorrt}.0.1", release)
        with pytest.raises(SpecError, match=r"Triton 26.09 has .* inside nvcr.io/nvidia/tritonserver:26.09-py3"):
            check_tensorrt("9.1.0", release)


def run(*flags: str) -> int:
    command = argparse.ArgumentParser()
    plan_command.add_arguments(command)
    return plan_command.run(command.parse_args(flags))


def test_a_machine_without_a_gpu_is_told_so(repository: Path) -> None:
    with pytest.raises(SpecError, match="a plan is built on the GPU that will load it"):
        run("--repository", str(repository))


def test_several_models_have_to_be_told_apart(repository: Path) -> None:
    shutil.copytree(repository / "shapes", repository / "other")
    with pytest.raises(SpecError, match="holds other, shapes; name one with --model"):
        run("--repository", str(repository))
    with pytest.raises(SpecError, match="holds no published model"):
        run("--repository", str(repository / "nowhere"))


def test_the_command_says_what_it_did(repository: Path, cache: StageCache, monkeypatch, capsys) -> None:
    monkeypatch.delenv("TRT_VERSION", raising=False)
    monkeypatch.setattr("builder.plan_building.this_machine", lambda gpu: machine("t4"))
    monkeypatch.setattr(engine, "build_plan", by_tensorrt_rtx("7.5"))
    assert run("--repository", str(repository), "--cache", str(cache.root), "--json") == 0
    said = capsys.readouterr()
    printed = json.loads(said.out)
    assert (printed["version"], printed["plan"]["file"]) == (2, "model_sm75.plan")
    assert "config.pbtxt serves model.onnx until a10 have their plans" in said.err
