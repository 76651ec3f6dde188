"""Each fault is planted alone into a copy of a repository as ``build`` publishes it, and must be the one finding."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.doctor.diagnosis import diagnose, examine
from builder.doctor.findings import Severity, Target
from builder.engine import HardwareCompatibility
from builder.errors import RepositoryError, SpecError
from builder.gpus import find_gpu, known_gpus
from builder.plans import PlanRecord
from builder.releases import find_release
from builder.serving import ServingSettings
from tests.plans import compiled_plan, plan_with_filler, ultralytics_metadata
from tests.published import MAX_BATCH, SIZE, brightness_graph, edited_build, edited_config, publish_shapes, sign

FAILS, WARNING = Severity.FAILS, Severity.WARNING
T4_PLAN, L4_PLAN = "model_sm75.plan", "model_sm89.plan"
CONFIGS = ("config.pbtxt", "configs/cpu.pbtxt", "configs/l4.pbtxt", "configs/t4.pbtxt")

ENSEMBLE = """
name: "{name}"
platform: "ensemble"
max_batch_size: 4
input [{{ name: "picture" data_type: TYPE_UINT8 dims: [32, 32, 3] }}]
output [{{ name: "boxes" data_type: TYPE_FP32 dims: [1, 6] }}]
ensemble_scheduling {{
  step [{{
    model_name: "{step}" model_version: {version}
    input_map {{ key: "images" value: "picture" }} output_map {{ key: "detections" value: "boxes" }}
  }}]
}}
"""
BY_HAND = """
name: "hand"
platform: "tensorrt_plan"
max_batch_size: 0
input [{ name: "images" data_type: TYPE_FP32 dims: [1, 3, 32, 32] }]
output [{ name: "output0" data_type: TYPE_FP32 dims: [1, 6, 21] }]
model_warmup [{
  name: "one" inputs { key: "images" value { data_type: TYPE_FP32 dims: [1, 3, 32, 32] zero_data: true } }
}]
"""
RECORD_FIELDS = [each.name for each in dataclasses.fields(PlanRecord)]
RECORD_CHECKS = ("plan-capability", "plan-version", "batch-plan")
ODD_VALUES = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=8),
    st.lists(st.integers(0, 9), max_size=3),
    st.sampled_from(["8.9", "25.11", "10.14.1.48.post1", "ampere_plus", [{"batch_max": "4"}], [{"batch_max": 2}], {}]),
)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, Path]:
    """The same model without plans, and with one for each of its two GPUs."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("graphs", "plans")}
    publish_shapes(folders["graphs"] / "repository", folders["graphs"])
    publish_shapes(folders["plans"] / "repository", folders["plans"], plans=("t4", "l4"))
    return {name: folder / "repository" for name, folder in folders.items()}


@pytest.fixture
def on_graph(published, tmp_path) -> Path:
    """A copy of the repository without plans: onnxruntime on GPUs, OpenVINO on the CPU."""
    return shutil.copytree(published["graphs"], tmp_path / "repository")


@pytest.fixture
def on_plans(published, tmp_path) -> Path:
    """A copy of the repository with a plan for each GPU."""
    return shutil.copytree(published["plans"], tmp_path / "repository")


def expect(repository, check, where, what, *, severity=FAILS, **target):
    """That this one thing is found, and nothing else."""
    findings = diagnose(repository, **target)
    assert [(each.check, each.where) for each in findings] == [(check, where)], "\n".join(map(str, findings))
    (finding,) = findings
    assert finding.severity is severity
    assert re.search(what, finding.what), finding.what
    assert finding.fix
    return finding


def named(repository, path="config.pbtxt"):
    return f"shapes/{path}", repository / "shapes"


class TestGoodRepositories:
    @pytest.mark.parametrize("name", ["graphs", "plans"])
    def test_nothing_is_found(self, published, name):
        assert diagnose(published[name]) == ()

    @pytest.mark.parametrize("name", ["graphs", "plans"])
    def test_nothing_is_found_for_the_release_gpus_and_driver_that_it_was_built_for(self, published, name):
        target = Target(release=find_release("25.10"), gpus=(find_gpu("t4"), find_gpu("l4")), driver="580.95.05")
        seen = examine(published[name], target)
        assert (seen.findings, seen.unchecked) == ((), ())
        assert (seen.models, seen.configs, seen.plans) == (1, 4, 2 if name == "plans" else 0)
        assert seen.loads

    def test_nothing_is_found_where_one_gpu_of_the_fleet_has_its_plan(self, tmp_path):
        publish_shapes(tmp_path / "repository", tmp_path, plans=("l4",))
        assert diagnose(tmp_path / "repository", gpus=[find_gpu("l4")]) == ()

    def test_nothing_is_found_where_a_plan_is_made_for_the_gpus_that_share_it(self, tmp_path):
        publish_shapes(
            tmp_path / "repository",
            tmp_path,
            gpus=("l4", "l40s"),
            plans=("l4", "l40s"),
            compatibility=HardwareCompatibility.SAME_COMPUTE_CAPABILITY,
        )
        assert diagnose(tmp_path / "repository") == ()

    def test_nothing_is_found_where_one_plan_serves_ampere_and_later(self, tmp_path):
        publish_shapes(
            tmp_path / "repository",
            tmp_path,
            gpus=("a10", "l4"),
            plans=("a10", "l4"),
            compatibility=HardwareCompatibility.AMPERE_PLUS,
        )
        assert diagnose(tmp_path / "repository") == ()

    def test_nothing_is_found_with_priorities(self, tmp_path):
        settings = ServingSettings(max_batch=MAX_BATCH, priority_levels=3)
        publish_shapes(tmp_path / "repository", tmp_path, plans=("t4", "l4"), settings=settings)
        assert diagnose(tmp_path / "repository") == ()

    def test_nothing_is_found_where_an_older_version_was_built_for_other_gpus(self, on_plans, tmp_path):
        publish_shapes(on_plans, tmp_path, gpus=("a10",), plans=("a10",))
        for name in ("t4", "l4"):
            (on_plans / "shapes" / "configs" / f"{name}.pbtxt").unlink()
        seen = examine(on_plans, Target(driver="580.95.05"))
        assert (seen.findings, seen.unchecked, seen.plans) == ((), (), 1)

    def test_nothing_is_found_of_the_configurations_of_an_older_version(self, on_plans, tmp_path):
        publish_shapes(on_plans, tmp_path, gpus=("a10",), plans=("a10",))
        seen = examine(on_plans, Target(driver="580.95.05"))
        assert (seen.findings, seen.unchecked, seen.plans) == ((), (), 3)

    def test_nothing_is_found_of_what_python_and_a_killed_build_leave_behind(self, on_graph):
        (on_graph / "shapes" / "1" / "__pycache__").mkdir()
        (on_graph / "shapes" / "1" / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"compiled")
        (on_graph / "shapes" / ".tmp-77-0123abcd").mkdir()
        (on_graph / ".shapes.lock").touch()
        assert diagnose(on_graph) == ()

    def test_nothing_is_found_of_an_ensemble_of_models_that_are_there(self, on_graph):
        write_ensemble(on_graph, step="shapes", version=1)
        assert diagnose(on_graph) == ()


class TestConfig:
    def test_missing(self, on_graph):
        (on_graph / "shapes" / "config.pbtxt").unlink()
        expect(on_graph, "config-missing", "shapes/config.pbtxt", "missing; tritonserver would have to make up")

    @pytest.mark.parametrize("path", CONFIGS)
    def test_that_does_not_parse(self, on_graph, path):
        where, model = named(on_graph, path)
        (model / path).write_text((model / path).read_text().replace("max_batch_size", "max_batch"))
        expect(on_graph, "config-syntax", where, 'no field named "max_batch"')

    def test_that_is_no_text(self, on_graph):
        (on_graph / "shapes" / "config.pbtxt").write_bytes(b"\xff\xfe\x00")
        expect(on_graph, "config-syntax", "shapes/config.pbtxt", "expected a Triton model configuration")

    @pytest.mark.parametrize("path", CONFIGS)
    def test_of_another_name(self, on_graph, path):
        where, model = named(on_graph, path)
        with edited_config(model, path) as config:
            config.name = "forms"
        expect(on_graph, "config-name", where, "expected name 'shapes', as the folder says, got 'forms'")

    def test_of_an_unknown_backend(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.backend = "tensorrtt"
        found = expect(on_graph, "backend-unknown", "shapes/config.pbtxt", "'tensorrtt' is in no image")
        assert "did you mean tensorrt?" in found.what

    def test_of_a_backend_that_lies_beside_it_is_fine(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.backend = "mine"
        (on_graph / "shapes" / "libtriton_mine.so").touch()
        assert diagnose(on_graph) == ()

    def test_of_no_backend_is_told_by_its_files(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.backend = ""
        expect(on_graph, "backend-unnamed", "shapes/config.pbtxt", "tritonserver takes onnxruntime", severity=WARNING)

    def test_of_a_platform_is_a_backend_too(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.backend, config.platform = "", "onnxruntime_onnx"
        assert diagnose(on_graph) == ()

    def test_of_a_version_that_is_not_there(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.version_policy.specific.versions[:] = [2]
        found = expect(on_graph, "version-missing", "shapes/config.pbtxt", "expected version 2, .* found 1")
        assert "name a version that is there" in found.fix

    def test_of_a_version_that_is_not_there_among_others(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.version_policy.specific.versions[:] = [1, 2]
        expect(on_graph, "version-missing", "shapes/config.pbtxt", "names 2, found 1", severity=WARNING)

    @pytest.mark.parametrize("level", [0, 4])
    def test_of_a_default_priority_outside_the_levels(self, on_graph, level):
        with edited_config(on_graph / "shapes") as config:
            config.dynamic_batching.priority_levels = 3
            config.dynamic_batching.default_priority_level = level
        expect(on_graph, "priority-default", "shapes/config.pbtxt", f"from 1 to 3, .* got {level}")

    def test_of_a_queue_for_a_level_that_is_not_there(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.dynamic_batching.priority_levels = 3
            config.dynamic_batching.default_priority_level = 2
            config.dynamic_batching.priority_queue_policy[4].max_queue_size = 8
        expect(on_graph, "priority-policy", "shapes/config.pbtxt", "has level 4, priority_levels are 1 to 3")

    def test_of_a_preferred_batch_above_the_largest(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.dynamic_batching.preferred_batch_size.append(8)
        expect(on_graph, "preferred-batch", "shapes/config.pbtxt", "8 is above max_batch_size 4")

    def test_that_was_edited_since_it_was_published(self, on_graph):
        path = on_graph / "shapes" / "configs" / "t4.pbtxt"
        path.write_text(f"{path.read_text()}# by hand\n")
        where = "shapes/configs/t4.pbtxt"
        expect(on_graph, "config-edited", where, "differs from 1/configs/t4.pbtxt", severity=WARNING)

    @pytest.mark.parametrize("path", CONFIGS)
    @pytest.mark.parametrize("text", ["", "# nothing\n"])
    def test_that_is_empty(self, on_graph, path, text):
        where, model = named(on_graph, path)
        (model / path).write_text(text)
        found = expect(on_graph, "config-empty", where, "names no backend, no inputs and no outputs")
        assert found.fix == f"copy {model / '1' / 'configs' / Path(path).name} back"

    def test_that_is_empty_is_enough_for_python_written_by_hand(self, on_graph):
        (on_graph / "hand" / "1").mkdir(parents=True)
        (on_graph / "hand" / "1" / "model.py").write_text("# serves")
        (on_graph / "hand" / "config.pbtxt").touch()
        expect(on_graph, "config-empty", "hand/config.pbtxt", "no inputs and no outputs", severity=WARNING)

    @pytest.mark.parametrize("path", CONFIGS)
    @pytest.mark.parametrize("kind", ["input", "output"])
    def test_without_inputs_or_outputs(self, on_graph, path, kind):
        where, model = named(on_graph, path)
        with edited_config(model, path) as config:
            config.ClearField(kind)
        found = expect(on_graph, f"{kind}-name", where, f"no {kind} is in the configuration")
        assert f"write {kind}s as model.onnx has them" in found.fix

    @pytest.mark.parametrize("name", ["cpu", "t4"])
    def test_that_the_version_has_and_the_model_no_longer(self, on_graph, name):
        path = on_graph / "shapes" / "configs" / f"{name}.pbtxt"
        path.unlink()
        what = f"--model-config-name={name} would serve config.pbtxt, and not say so"
        found = expect(on_graph, "config-gone", f"shapes/configs/{name}.pbtxt", what, severity=WARNING)
        assert found.fix == f"copy it back: cp {on_graph / 'shapes' / '1' / 'configs' / path.name} {path}"


class TestFiles:
    @pytest.mark.parametrize("name", ["model.onnx", "model.py"])
    def test_missing(self, on_graph, name):
        (on_graph / "shapes" / "1" / name).unlink()
        expect(on_graph, "file-missing", f"shapes/1/{name}", "missing; .*pbtxt names it")

    def test_missing_for_a_compute_capability(self, on_plans):
        (on_plans / "shapes" / "1" / L4_PLAN).unlink()
        expect(on_plans, "file-missing", f"shapes/1/{L4_PLAN}", "missing; config.pbtxt names it, for .* 8.9")

    def test_a_folder_in_place_of_a_plan(self, on_plans):
        (on_plans / "shapes" / "1" / L4_PLAN).unlink()
        (on_plans / "shapes" / "1" / L4_PLAN).mkdir()
        expect(on_plans, "file-missing", f"shapes/1/{L4_PLAN}", "missing; config.pbtxt names it, for .* 8.9")

    def test_missing_labels(self, on_plans):
        (on_plans / "shapes" / "1" / "labels.txt").unlink()
        expect(on_plans, "labels-missing", "shapes/1/labels.txt", "missing; .* for the labels of output detections")

    def test_a_hidden_folder(self, on_graph):
        (on_graph / ".snapshots").mkdir()
        expect(on_graph, "hidden-folder", ".snapshots", "which tritonserver takes for a model")

    def test_a_folder_that_is_no_model(self, on_graph):
        (on_graph / "lost+found").mkdir()
        found = expect(on_graph, "no-model", "lost+found", "no model, and tritonserver takes every folder")
        assert found.fix.startswith(f"move {on_graph / 'lost+found'} elsewhere")

    def test_a_link_to_the_repository_itself(self, on_graph):
        (on_graph / "self").symlink_to(".")
        found = expect(on_graph, "no-model", "self", "no model, and tritonserver takes every folder")
        assert found.fix.startswith(f"remove it: rm {on_graph / 'self'}")


class TestLinks:
    @pytest.mark.parametrize("name", ["dead", ".dead"])
    def test_to_nothing_in_the_repository(self, on_graph, name):
        (on_graph / name).symlink_to("/nowhere")
        found = expect(on_graph, "dead-link", name, "to /nowhere, where nothing is; .* loads none of the repository")
        assert found.fix == f"remove it: rm {on_graph / name}"

    def test_to_each_other_in_the_repository(self, on_graph):
        (on_graph / "one").symlink_to("other")
        (on_graph / "other").symlink_to("one")
        assert [(each.check, each.where) for each in diagnose(on_graph)] == [
            ("dead-link", "one"),
            ("dead-link", "other"),
        ]

    @pytest.mark.parametrize("name", ["dead", "7"])
    def test_to_nothing_in_a_model(self, on_graph, name):
        (on_graph / "shapes" / name).symlink_to("/nowhere")
        expect(on_graph, "dead-link", f"shapes/{name}", "does not load a model whose folder holds such a link")

    def test_to_nothing_in_place_of_the_configuration(self, on_graph):
        (on_graph / "shapes" / "config.pbtxt").unlink()
        (on_graph / "shapes" / "config.pbtxt").symlink_to("/nowhere")
        expect(on_graph, "dead-link", "shapes/config.pbtxt", "does not load a model whose folder holds such a link")

    def test_to_nothing_in_place_of_another_configuration(self, on_graph):
        path = on_graph / "shapes" / "configs" / "cpu.pbtxt"
        path.unlink()
        path.symlink_to("/nowhere")
        what = "--model-config-name=cpu would serve config.pbtxt, and not say so"
        expect(on_graph, "dead-link", "shapes/configs/cpu.pbtxt", what, severity=WARNING)

    def test_to_nothing_in_a_version(self, on_graph):
        (on_graph / "shapes" / "1" / "assets").mkdir()
        (on_graph / "shapes" / "1" / "assets" / "dead").symlink_to("/nowhere")
        expect(on_graph, "dead-link", "shapes/1/assets/dead", "to /nowhere", severity=WARNING)

    def test_to_nothing_in_place_of_a_file_that_is_served(self, on_graph):
        (on_graph / "shapes" / "1" / "model.onnx").unlink()
        (on_graph / "shapes" / "1" / "model.onnx").symlink_to("/nowhere")
        checks = {(each.check, each.where, each.severity) for each in diagnose(on_graph)}
        where = "shapes/1/model.onnx"
        assert checks == {("file-missing", where, FAILS), ("dead-link", where, WARNING)}

    @pytest.mark.parametrize("place", [".", "1", "1/model.onnx"])
    def test_to_what_was_published_serve_as_well(self, on_plans, tmp_path, place):
        path = (on_plans / "shapes" / place).parent / (on_plans / "shapes" / place).name
        shutil.move(path, tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        assert diagnose(on_plans) == ()

    def test_to_another_content_than_was_published_are_found(self, on_graph, tmp_path):
        path = on_graph / "shapes" / "1" / "labels.txt"
        path.unlink()
        (tmp_path / "labels.txt").write_text("other\nlabels\n")
        path.symlink_to(tmp_path / "labels.txt")
        expect(on_graph, "manifest", "shapes/1/labels.txt", "expected sha256 .* in .*labels.txt", severity=WARNING)


class TestMemory:
    def test_of_more_instances_than_the_gpu_can_hold(self, on_graph):
        with_memory(on_graph)
        with edited_config(on_graph / "shapes", "configs/t4.pbtxt") as config:
            config.instance_group[0].count = 200
        # 120 MB an instance, its own weights among them.
        what = r"200 instances take 24\.0 GB .* and t4 has 16\.0 GB: out of memory"
        found = expect(on_graph, "memory", "shapes/configs/t4.pbtxt", what)
        assert found.fix.startswith("set count to 133 at most")

    def test_of_plans_whose_weights_are_shared(self, on_plans):
        with_memory(on_plans)
        with edited_config(on_plans / "shapes", "configs/t4.pbtxt") as config:
            config.instance_group[0].count = 200
        assert diagnose(on_plans) == ()
        with edited_config(on_plans / "shapes", "configs/t4.pbtxt") as config:
            config.instance_group[0].count = 800
        expect(on_plans, "memory", "shapes/configs/t4.pbtxt", r"800 instances take 16\.1 GB")

    def test_of_groups_on_gpus_of_their_own(self, on_graph):
        with_memory(on_graph)
        with edited_config(on_graph / "shapes", "configs/t4.pbtxt") as config:
            config.instance_group[0].count = 100
            config.instance_group[0].gpus[:] = [0]
            config.instance_group.add().CopyFrom(config.instance_group[0])
            config.instance_group[1].gpus[:] = [1]
        assert diagnose(on_graph) == ()
        with edited_config(on_graph / "shapes", "configs/t4.pbtxt") as config:
            config.instance_group[1].gpus[:] = [0]
        expect(on_graph, "memory", "shapes/configs/t4.pbtxt", "200 instances")

    def test_of_smaller_batches_than_the_figures_are_of_is_less(self, on_graph):
        with_memory(on_graph, batch=MAX_BATCH * 10, activation_bytes=200_000_000)
        with edited_config(on_graph / "shapes", "configs/t4.pbtxt") as config:
            config.instance_group[0].count = 100
        assert diagnose(on_graph) == ()

    def test_is_not_judged_without_figures(self, on_graph):
        with edited_config(on_graph / "shapes", "configs/t4.pbtxt") as config:
            config.instance_group[0].count = 200
        assert diagnose(on_graph) == ()

    @pytest.mark.parametrize(
        "figures", [{"batch": 0}, {"weight_bytes": "1"}, {"capacity_bytes": None}, {"batch": None}]
    )
    def test_is_not_judged_by_figures_that_cannot_be(self, on_graph, figures):
        with_memory(on_graph, **figures)
        assert diagnose(on_graph) == ()


class TestGraph:
    def test_that_is_cut_short(self, on_graph):
        path = on_graph / "shapes" / "1" / "model.onnx"
        path.write_bytes(path.read_bytes()[:100])
        expect(on_graph, "graph-unreadable", "shapes/1/model.onnx", "expected an ONNX graph, got")

    def test_of_a_fixed_batch(self, on_graph):
        replace_graph(on_graph, batch=4)
        findings = diagnose(on_graph)
        assert {each.where for each in findings} == {f"shapes/{path}" for path in CONFIGS}
        assert {each.check for each in findings} == {"batch-graph"}
        assert "max_batch_size is 4" in findings[0].what
        assert "has a fixed batch of 4" in findings[0].what

    def test_of_a_batch_of_one_is_what_the_cpu_runs(self, on_graph):
        replace_graph(on_graph, batch=1)
        assert {each.where for each in diagnose(on_graph)} == {
            f"shapes/{path}" for path in CONFIGS if "cpu" not in path
        }

    @pytest.mark.parametrize("path", CONFIGS)
    @pytest.mark.parametrize(
        ("change", "check", "what"),
        [
            (lambda c: setattr(c.output[0], "name", "boxes"), "output-name", "'boxes' is not in model.onnx"),
            (lambda c: c.output[0].dims.__setitem__(0, 300), "output-dims", r"expected dims \[1, 6\], got \[300, 6\]"),
            (lambda c: c.output[0].dims.append(1), "output-dims", r"expected dims \[1, 6\], got \[1, 6, 1\]"),
            (lambda c: setattr(c.output[0], "data_type", 10), "output-type", "expected TYPE_FP32, got TYPE_FP16"),
            (lambda c: c.input.add(name="sizes", data_type=8, dims=[2], optional=True), "input-name", "'sizes' is not"),
        ],
        ids=["output name", "output dims", "output rank", "output type", "input name"],
    )
    def test_and_config_differ(self, on_graph, path, change, check, what):
        where, model = named(on_graph, path)
        with edited_config(model, path) as config:
            change(config)
        expect(on_graph, check, where, what)

    @pytest.mark.parametrize(
        ("change", "checks"),
        [
            # Triton compares the warmup with the configuration's own inputs, too.
            (lambda c: setattr(c.input[0], "name", "pixels"), ["input-name", "input-name", "warmup"]),
            (lambda c: c.input[0].dims.__setitem__(0, 64), ["input-dims", "warmup"]),
            (lambda c: setattr(c.input[0], "data_type", 11), ["input-type", "warmup"]),
        ],
        ids=["input name", "input dims", "input type"],
    )
    def test_and_config_differ_in_what_is_warmed_up_too(self, on_plans, change, checks):
        with edited_config(on_plans / "shapes") as config:
            change(config)
        findings = diagnose(on_plans)
        assert sorted({each.check for each in findings}) == sorted(set(checks))
        assert {each.where for each in findings} == {"shapes/config.pbtxt"}
        assert all(each.severity is FAILS for each in findings)

    def test_and_config_agree_by_a_reshape(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.output[0].dims[:] = [6]
            config.output[0].reshape.shape[:] = [1, 6]
        assert diagnose(on_graph) == ()

    @pytest.mark.parametrize(
        ("key", "shapes"),
        [
            ("trt_profile_max_shapes", "images:2x32x32x3"),
            ("trt_profile_min_shapes", "images:2x32x32x3"),
            ("trt_profile_max_shapes", "images:4x64x64x3"),
        ],
        ids=["smaller batch", "no single image", "other size"],
    )
    def test_is_compiled_for_less_than_requests_bring(self, on_graph, key, shapes):
        with edited_config(on_graph / "shapes") as config:
            (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
            accelerator.parameters[key] = shapes
        what = f"{key} is {shapes}, and requests come in batches of 1 to 4"
        expect(on_graph, "profile-shapes", "shapes/config.pbtxt", what, severity=WARNING)

    def test_of_a_free_size_takes_any(self, on_graph):
        import onnx

        path = on_graph / "shapes" / "1" / "model.onnx"
        model = onnx.load(path)
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
        onnx.save(model, path)
        sign(on_graph / "shapes" / "1")
        assert diagnose(on_graph) == ()


class TestWarmup:
    @pytest.mark.parametrize(
        ("kept", "what"),
        [
            ([1], "warms up batch 1, leaves cold: batch 4"),
            ([4], "warms up batch 4, leaves cold: batch 1"),
            ([], "warms up nothing, leaves cold: batch 1, batch 4"),
        ],
    )
    def test_of_less_than_the_profile(self, on_plans, kept, what):
        with edited_config(on_plans / "shapes") as config:
            samples = [each for each in config.model_warmup if each.batch_size in kept]
            config.ClearField("model_warmup")
            config.model_warmup.extend(samples)
        expect(on_plans, "warmup-coverage", "shapes/config.pbtxt", what, severity=WARNING)

    def test_of_fewer_sizes_than_the_profiles(self, on_plans):
        with edited_build(on_plans / "shapes" / "1") as build:
            build["plans"][0]["profiles"][0]["imgsz"] = [SIZE, SIZE]
            build["plans"][0]["profiles"].append({"batch_min": 1, "batch_opt": 1, "batch_max": 2, "imgsz": [64, 48]})
        findings = diagnose(on_plans)
        assert {(each.check, each.severity) for each in findings} == {("warmup-coverage", WARNING)}
        assert {each.where for each in findings} == {"shapes/config.pbtxt", "shapes/configs/t4.pbtxt"}
        assert f"leaves cold: batch 1 of 64x48 ({T4_PLAN}), batch 2 of 64x48 ({T4_PLAN})" in findings[0].what

    def test_that_reads_a_missing_file(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.model_warmup[0].inputs["images"].input_data_file = "frame.raw"
        expect(on_graph, "warmup", "shapes/warmup/frame.raw", "config.pbtxt reads input 'images' from it, missing")

    def test_that_reads_a_file_that_is_there(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.model_warmup[0].inputs["images"].input_data_file = "frame.raw"
        (on_graph / "shapes" / "warmup").mkdir()
        (on_graph / "shapes" / "warmup" / "frame.raw").write_bytes(bytes(SIZE * SIZE * 3))
        assert diagnose(on_graph) == ()

    @pytest.mark.parametrize(
        ("change", "what"),
        [
            (lambda s: s.inputs["images"].dims.__setitem__(0, 64), r"expected dims \[32, 32, 3\] .* got \[64, 32, 3\]"),
            (lambda s: s.inputs["images"].dims.__setitem__(0, -1), "expected a size for every dimension"),
            (lambda s: setattr(s.inputs["images"], "data_type", 11), "expected TYPE_UINT8 .* got TYPE_FP32"),
            (lambda s: s.inputs["images"].ClearField("random_data"), "none of zero_data, random_data"),
            (lambda s: s.inputs["frames"].CopyFrom(s.inputs["images"]), "the configuration has no input 'frames'"),
        ],
        ids=["dims", "free dims", "type", "no data", "another input"],
    )
    def test_that_cannot_run(self, on_graph, change, what):
        with edited_config(on_graph / "shapes") as config:
            change(config.model_warmup[0])
        expect(on_graph, "warmup", "shapes/config.pbtxt", what)

    def test_without_an_input(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.model_warmup[0].inputs.clear()
        expect(on_graph, "warmup", "shapes/config.pbtxt", "no input 'images'")

    def test_of_more_than_the_largest_batch(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.model_warmup.add().CopyFrom(config.model_warmup[0])
            config.model_warmup[-1].batch_size = 8
        expect(on_graph, "warmup", "shapes/config.pbtxt", "batch_size 8 is above max_batch_size 4")


class TestPlan:
    @pytest.mark.parametrize("release", ["25.11", "26.09"])
    def test_of_another_tensorrt_than_the_releases(self, on_plans, release):
        findings = diagnose(on_plans, release=find_release(release))
        assert [each.where for each in findings] == [f"shapes/1/{T4_PLAN}", f"shapes/1/{L4_PLAN}"]
        holds = find_release(release).tensorrt
        assert findings[0].check == "plan-version"
        assert findings[0].what == f"built by TensorRT 10.13.3.9, and Triton {release} holds {holds}"
        assert f"build it in nvcr.io/nvidia/tritonserver:{release}-py3" in findings[0].fix
        assert "or serve with Triton 25.10" in findings[0].fix

    def test_of_another_tensorrt_than_the_release_that_the_manifest_names(self, on_plans):
        replace_plan(on_plans, T4_PLAN, plan_with_filler("10.14.1.48"), in_record={"version": "10.14.1.48"})
        findings = diagnose(on_plans)
        # The other plan is of 10.13.3.9, and a server has one TensorRT.
        assert [each.check for each in findings] == ["plan-version", "plan-versions"]
        assert "built by TensorRT 10.14.1.48, and Triton 25.10 holds 10.13.3.9" in findings[0].what

    def test_of_another_tensorrt_than_the_plan_beside_it(self, on_plans):
        replace_plan(on_plans, L4_PLAN, plan_with_filler("10.14.1.48"), in_record={"version": "10.14.1.48"})
        with edited_build(on_plans / "shapes" / "1") as build:
            for record in build["plans"]:
                record["triton"] = None
        found = expect(on_plans, "plan-versions", f"shapes/1/{L4_PLAN}", "10.14.1.48, and model_sm75.plan beside it")
        assert "no server has both" in found.what

    def test_of_a_tensorrt_so_old_that_it_does_not_say_which(self, on_plans):
        replace_plan(on_plans, T4_PLAN, plan_with_filler(tag=b"ptrt", layout=96))
        expect(on_plans, "plan-version", f"shapes/1/{T4_PLAN}", "a plan of TensorRT before 8.6")

    def test_that_is_not_what_its_record_says(self, on_plans):
        with edited_build(on_plans / "shapes" / "1") as build:
            build["plans"][0]["version"] = "10.13.2.6"
        expect(on_plans, "plan-record", f"shapes/1/{T4_PLAN}", "manifest says TensorRT 10.13.2.6", severity=WARNING)

    def test_of_another_compute_capability_by_its_content(self, on_plans):
        version = on_plans / "shapes" / "1"
        (version / T4_PLAN).write_bytes((version / L4_PLAN).read_bytes())
        found = expect(
            on_plans, "plan-capability", f"shapes/1/{T4_PLAN}", "built for compute capability 8.9, as the manifest"
        )
        assert "gives it to 7.5" in found.what

    def test_of_another_compute_capability_by_the_key(self, on_plans):
        with edited_config(on_plans / "shapes") as config:
            config.cc_model_filenames["7.5"] = L4_PLAN
        expect(on_plans, "plan-capability", f"shapes/1/{L4_PLAN}", "8.9, as the manifest says, and config.pbtxt gives")

    def test_of_another_compute_capability_by_its_name_alone(self, on_plans):
        with edited_build(on_plans / "shapes" / "1") as build:
            build["plans"] = []
        with edited_config(on_plans / "shapes") as config:
            config.cc_model_filenames["7.5"] = L4_PLAN
        expect(on_plans, "plan-capability", f"shapes/1/{L4_PLAN}", "8.9, as its name says")

    def test_behind_metadata(self, on_plans):
        front = ultralytics_metadata()
        replace_plan(on_plans, T4_PLAN, front + plan_with_filler())
        found = expect(on_plans, "plan-metadata", f"shapes/1/{T4_PLAN}", f"{len(front)} bytes of metadata")
        assert found.fix.endswith(f"tail -c +{len(front) + 1} {T4_PLAN}")

    def test_cut_short_by_its_header(self, on_plans):
        replace_plan(on_plans, T4_PLAN, plan_with_filler(size=4096)[:3000])
        expect(on_plans, "plan-cut-short", f"shapes/1/{T4_PLAN}", "expected 4096 bytes, as it says itself, found 3000")

    def test_cut_short_within_its_header(self, on_plans):
        replace_plan(on_plans, T4_PLAN, plan_with_filler()[:20])
        expect(on_plans, "plan-cut-short", f"shapes/1/{T4_PLAN}", "expected a whole header, found 20")

    def test_cut_short_by_the_manifest(self, on_plans):
        replace_plan(on_plans, T4_PLAN, plan_with_filler(size=4096, recorded=0))
        (on_plans / "shapes" / "1" / T4_PLAN).write_bytes(plan_with_filler(size=4096, recorded=0)[:3000])
        expect(
            on_plans, "plan-cut-short", f"shapes/1/{T4_PLAN}", "expected 4096 bytes, as the manifest says, found 3000"
        )

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"", "a file that is empty"),
            (bytes(4096), "a file that is zeros"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
            (b"404 Not Found\n", "a file that is text"),
        ],
        ids=["empty", "zeros", "lfs", "text"],
    )
    def test_that_is_none(self, on_plans, content, what):
        (on_plans / "shapes" / "1" / T4_PLAN).write_bytes(content)
        expect(on_plans, "plan-kind", f"shapes/1/{T4_PLAN}", what)

    def test_that_is_the_graph(self, on_plans):
        version = on_plans / "shapes" / "1"
        shutil.copy(version / "model.onnx", version / T4_PLAN)
        expect(on_plans, "plan-kind", f"shapes/1/{T4_PLAN}", "a file that is an ONNX file")

    def test_that_is_the_graph_by_its_name(self, on_graph):
        with edited_config(on_graph / "shapes") as config:
            config.backend, config.default_model_filename = "tensorrt", "model.onnx"
        seen = examine(on_graph, Target(release=find_release("25.10"), driver="580.65.06"))
        (finding,) = seen.findings
        assert (finding.check, finding.where) == ("plan-kind", "shapes/1/model.onnx")
        assert "got a file that is an ONNX file" in finding.what
        assert finding.fix.startswith("write backend: 'onnxruntime', or build it")
        assert seen.unchecked == ()

    def test_of_tensorrt_rtx(self, on_plans):
        pytest.importorskip("tensorrt_rtx")
        version = on_plans / "shapes" / "1"
        compiled_plan(version / "model.onnx", version / T4_PLAN, "7.5")
        expect(on_plans, "plan-rtx", f"shapes/1/{T4_PLAN}", r"a plan of TensorRT-RTX 1\..*Triton's TensorRT cannot")

    def test_for_smaller_batches(self, on_plans):
        with edited_build(on_plans / "shapes" / "1") as build:
            build["plans"][0]["profiles"][0] |= {"batch_opt": 2, "batch_max": 2}
        findings = diagnose(on_plans)
        assert [(each.check, each.where) for each in findings] == [
            ("batch-plan", "shapes/config.pbtxt"),
            ("batch-plan", "shapes/configs/t4.pbtxt"),
        ]
        assert findings[0].what == f"max_batch_size 4 is above the 2 that {T4_PLAN} was built for"

    def test_of_another_graph(self, on_plans):
        with edited_build(on_plans / "shapes" / "1") as build:
            build["plans"][0]["graph_sha256"] = "ab" * 32
        expect(on_plans, "plan-graph", f"shapes/1/{T4_PLAN}", "built from another graph", severity=WARNING)

    def test_that_two_kinds_of_gpu_share_though_built_for_one(self, on_plans):
        gpus = [find_gpu("t4"), find_gpu("l4"), find_gpu("l40s")]
        what = r"l4 and l40s share model_sm89\.plan, built on NVIDIA L4 for that GPU alone"
        expect(on_plans, "plan-shared", "shapes/config.pbtxt", what, severity=WARNING, gpus=gpus)

    def test_that_no_gpu_loads(self, on_plans):
        with edited_config(on_plans / "shapes") as config:
            config.cc_model_filenames["9.0"] = T4_PLAN.replace("75", "90")
        (on_plans / "shapes" / "1" / "model_sm90.plan").write_bytes(plan_with_filler())
        sign(on_plans / "shapes" / "1")
        what = r"has 9\.0 \(model_sm90\.plan\), which none of l4 \(8\.9\), t4 \(7\.5\) has"
        expect(on_plans, "plan-unused", "shapes/config.pbtxt", what, severity=WARNING)

    def test_that_a_gpu_lacks(self, on_plans):
        with edited_config(on_plans / "shapes") as config:
            del config.cc_model_filenames["8.9"]
        expect(on_plans, "plan-for-gpu", "shapes/config.pbtxt", "no plan for l4: .* has no 8.9, only 7.5")

    def test_that_a_gpu_asked_for_lacks(self, on_plans):
        expect(on_plans, "plan-for-gpu", "shapes/config.pbtxt", "no plan for a10", gpus=[find_gpu("a10")])

    def test_that_a_gpu_lacks_may_be_the_default_file(self, on_plans):
        version = on_plans / "shapes" / "1"
        with edited_config(on_plans / "shapes") as config:
            del config.cc_model_filenames["8.9"]
        shutil.move(version / L4_PLAN, version / "model.plan")
        with edited_config(on_plans / "shapes", "configs/l4.pbtxt") as config:
            config.cc_model_filenames["8.9"] = "model.plan"
        assert diagnose(on_plans) == ()


class TestMachine:
    def test_driver_too_old(self, on_plans):
        release = find_release("25.10")
        finding = expect(
            on_plans, "driver", "driver 470.42.01", "needs driver 580.65.06", release=release, driver="470.42.01"
        )
        assert "install driver 580.65.06 or later" in finding.fix

    def test_driver_too_old_for_the_release_that_the_plans_were_built_in(self, on_plans):
        expect(on_plans, "driver", "driver 550.54.15", "Triton 25.10 is built on CUDA 13.0", driver="550.54.15")

    def test_driver_that_nvidia_allows_on_data_centre_gpus(self, on_plans):
        what = r"notes of 25\.10 allow 535\.86 and later on data-centre GPUs"
        expect(on_plans, "driver", "driver 535.104", what, severity=WARNING, driver="535.104")

    def test_driver_that_is_allowed_on_data_centre_gpus_is_none_for_a_geforce(self, on_graph):
        target = {"release": find_release("25.10"), "gpus": [find_gpu("t4"), find_gpu("rtx-4090")]}
        expect(on_graph, "driver", "driver 535.104", "no older one does for rtx-4090", driver="535.104", **target)

    @pytest.mark.parametrize(("release", "is_told"), [("24.10", True), ("25.03", True), ("25.04", False)])
    def test_release_whose_grpc_endpoint_dies_of_cancelled_requests(self, on_graph, release, is_told):
        findings = diagnose(on_graph, release=find_release(release))
        assert [each.check for each in findings] == ["grpc-cancellation"] * is_told
        assert all(each.severity is WARNING and each.where == f"Triton {release}" for each in findings)

    def test_driver_of_the_releases_cuda_is_enough(self, on_graph):
        assert diagnose(on_graph, release=find_release("25.06"), driver="525.60.13") == ()

    def test_gpu_below_the_releases_floor(self, on_graph):
        xavier = known_gpus()["jetson-agx-xavier"]
        what = r"compute capability 7\.2, and Triton 26\.09 supports 7\.5 and up"
        expect(on_graph, "gpu-floor", "GPU jetson-agx-xavier", what, release=find_release("26.09"), gpus=[xavier])

    @pytest.mark.parametrize(
        ("name", "capability", "fix"),
        [
            ("rtx-5090", "12.0", "serve with Triton 25.01 or later"),
            ("b200", "10.0", "serve with Triton 25.01 or later"),
            ("jetson-thor", "11.0", "serve with Triton 25.08 to 25.12"),
        ],
    )
    def test_gpu_above_the_releases_ceiling(self, on_graph, name, capability, fix):
        found, _ = diagnose(on_graph, release=find_release("24.04"), gpus=[find_gpu(name)])
        assert (found.check, found.where, found.severity) == ("gpu-ceiling", f"GPU {name}", FAILS)
        assert found.what == f"compute capability {capability}, and Triton 24.04 supports none above 9.0"
        assert found.fix == fix

    def test_gpu_that_the_release_skips(self, on_graph):
        what = r"compute capability 11\.0, and Triton 26\.09 does not support that one"
        target = {"release": find_release("26.09"), "gpus": [find_gpu("jetson-thor")]}
        expect(on_graph, "gpu-ceiling", "GPU jetson-thor", what, **target)

    def test_gpu_of_which_nothing_is_said_is_fine(self, on_graph):
        assert diagnose(on_graph, release=find_release("26.10"), gpus=[find_gpu("rtx-5090")]) == ()

    def test_gpu_that_tensorrt_no_longer_supports(self, on_graph):
        xavier = known_gpus()["jetson-agx-xavier"]
        expect(on_graph, "gpu-floor", "GPU jetson-agx-xavier", "TensorRT supports 7.5 and up", gpus=[xavier])


class TestManifest:
    def test_of_another_content(self, on_graph):
        (on_graph / "shapes" / "1" / "labels.txt").write_text("square\ncircle\n")
        expect(on_graph, "manifest", "shapes/1/labels.txt", "expected sha256", severity=WARNING)

    def test_of_another_plan(self, on_plans):
        (on_plans / "shapes" / "1" / T4_PLAN).write_bytes(plan_with_filler(seed=5))
        expect(on_plans, "manifest", f"shapes/1/{T4_PLAN}", "expected sha256", severity=WARNING)

    def test_of_a_file_that_is_gone(self, on_plans):
        (on_plans / "shapes" / "1" / "configs" / "t4.pbtxt").unlink()
        expect(on_plans, "manifest", "shapes/1/configs/t4.pbtxt", "missing", severity=WARNING)

    def test_without_a_file_that_is_there(self, on_graph):
        (on_graph / "shapes" / "1" / "model_sm90.plan").write_bytes(plan_with_filler())
        expect(on_graph, "manifest", "shapes/1/model_sm90.plan", "not in the manifest", severity=WARNING)

    def test_that_is_gone(self, on_graph):
        (on_graph / "shapes" / "1" / "manifest.json").unlink()
        expect(on_graph, "manifest", "shapes/1/manifest.json", "missing", severity=WARNING)

    def test_that_is_no_json(self, on_plans):
        (on_plans / "shapes" / "1" / "manifest.json").write_text('{"schema_version": 1')
        expect(on_plans, "manifest", "shapes/1/manifest.json", "expected JSON", severity=WARNING)

    def test_of_a_newer_release_of_this_project(self, on_graph):
        path = on_graph / "shapes" / "1" / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
        what = "expected schema_version 1, got 2; a newer release of this project wrote it"
        found = expect(on_graph, "manifest", "shapes/1/manifest.json", what, severity=WARNING)
        assert "take that release of this project" in found.fix

    @pytest.mark.parametrize("build", [None, [], {"plans": 3}, {"plans": [3, {}]}, {"gpus": ["t4"], "graph": 1}])
    def test_whose_build_is_of_another_shape_is_no_traceback(self, on_plans, build):
        path = on_plans / "shapes" / "1" / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"build": build}))
        assert [each.check for each in diagnose(on_plans)] == ["manifest"]


class TestEnsemble:
    def test_of_a_model_that_is_not_there(self, on_graph):
        write_ensemble(on_graph, step="shape", version=-1)
        found = expect(on_graph, "ensemble-step", "both/config.pbtxt", "a step by model 'shape', which is not in")
        assert "nearest: shapes" in found.what

    def test_of_a_version_that_is_not_there(self, on_graph):
        write_ensemble(on_graph, step="shapes", version=7)
        expect(on_graph, "ensemble-step", "both/config.pbtxt", "version 7 of shapes, which is not there")

    @pytest.mark.parametrize("kind", ["input", "output"])
    def test_without_inputs_or_outputs(self, on_graph, kind):
        write_ensemble(on_graph, step="shapes", version=-1)
        path = on_graph / "both" / "config.pbtxt"
        path.write_text("".join(line for line in path.open() if not line.startswith(f"{kind} [")))
        expect(on_graph, "ensemble-ends", "both/config.pbtxt", f"the ensemble has no {kind}")

    def test_without_a_version_of_its_own(self, on_graph):
        write_ensemble(on_graph, step="shapes", version=-1)
        (on_graph / "both" / "1").rmdir()
        expect(on_graph, "version-missing", "both/config.pbtxt", "expected at least one version")


class TestWhatIsNotChecked:
    def test_is_said_of_a_release_that_nobody_named(self, on_graph):
        (reason,) = examine(on_graph, Target()).unchecked
        assert reason == "driver and GPUs are compared with no release of Triton: name it with --triton"

    def test_is_said_of_a_driver_that_nobody_named(self, on_plans):
        (reason,) = examine(on_plans, Target()).unchecked
        assert reason.startswith("no driver is compared")

    def test_is_said_of_plans_of_which_nobody_says_where_they_were_built(self, on_plans):
        with edited_build(on_plans / "shapes" / "1") as build:
            for record in build["plans"]:
                record["triton"] = None
        seen = examine(on_plans, Target())
        assert seen.findings == ()
        assert "TensorRT versions of plans are not compared with a release's: name it with --triton" in seen.unchecked

    def test_is_said_of_a_release_whose_tensorrt_is_not_confirmed(self, on_plans):
        seen = examine(on_plans, Target(release=find_release("25.08"), driver="580.65.06"))
        assert seen.findings == ()
        (reason,) = seen.unchecked
        assert reason == "which TensorRT Triton 25.08 holds is not confirmed: plans are not compared with it"

    def test_is_said_of_a_model_that_was_written_by_hand(self, tmp_path):
        (tmp_path / "hand" / "1").mkdir(parents=True)
        (tmp_path / "hand" / "1" / "model.plan").write_bytes(plan_with_filler())
        (tmp_path / "hand" / "config.pbtxt").write_text(BY_HAND)
        seen = examine(tmp_path, Target(release=find_release("25.10"), driver="580.65.06"))
        assert seen.findings == ()
        assert seen.unchecked == (
            "hand/1/model.plan: no manifest describes this content, its batches are not compared",
            "hand/1: no model.onnx is beside the plans, inputs and outputs are not compared",
        )

    def test_is_said_of_a_plan_whose_layout_is_not_known(self, on_plans):
        replace_plan(on_plans, T4_PLAN, plan_with_filler(layout=7))
        seen = examine(on_plans, Target(driver="580.65.06"))
        assert seen.findings == ()
        assert seen.unchecked == (
            f"shapes/1/{T4_PLAN}: its header is laid out in a way that is not known, its version is not compared",
        )


class TestDamage:
    @given(data=st.data())
    @settings(max_examples=100, deadline=None)
    def test_of_any_kind_is_never_a_traceback(self, published, data):
        with tempfile.TemporaryDirectory() as folder:
            repository = shutil.copytree(published["plans"], Path(folder) / "repository")
            files = sorted(path for path in repository.rglob("*") if path.is_file())
            path = data.draw(st.sampled_from(files))
            content = path.read_bytes()
            start = data.draw(st.integers(0, len(content)))
            end = data.draw(st.integers(start, len(content)))
            path.write_bytes(content[:start] + data.draw(st.binary(max_size=40)) + content[end:])
            damaged = path.read_bytes() != content
            assert bool(diagnose(repository)) == damaged

    @given(field=st.sampled_from(RECORD_FIELDS), value=ODD_VALUES)
    @settings(max_examples=60, deadline=None)
    def test_of_a_plans_record_is_never_a_traceback(self, published, field, value):
        with tempfile.TemporaryDirectory() as folder:
            repository = shutil.copytree(published["plans"], Path(folder) / "repository")
            with edited_build(repository / "shapes" / "1") as build:
                build["plans"][0][field] = value
            findings = diagnose(repository)
            assert all(each.severity is WARNING or each.check in RECORD_CHECKS for each in findings)


class TestBadRequest:
    @pytest.mark.parametrize(("make", "what"), [(False, "found nothing"), (True, "found none")])
    def test_no_repository(self, tmp_path, make, what):
        if make:
            (tmp_path / "repository").mkdir()
        with pytest.raises(RepositoryError, match=f"{what}; write one with: python -m builder build"):
            diagnose(tmp_path / "repository")

    def test_no_driver(self, on_plans):
        with pytest.raises(SpecError, match="expected a version such as"):
            diagnose(on_plans, driver="new")


def write_ensemble(repository, *, step, version):
    (repository / "both" / "1").mkdir(parents=True)
    text = ENSEMBLE.format(name="both", step=step, version=version)
    (repository / "both" / "config.pbtxt").write_text(text)


def with_memory(repository, **figures):
    """As if the version had been published with a T4's figures: 120 MB an instance, 100 MB of them weights."""
    memory = {
        "weight_bytes": 100_000_000,
        "input_bytes": 5_000_000,
        "output_bytes": 5_000_000,
        "activation_bytes": 10_000_000,
        "workspace_bytes": 1_000_000_000,
        "batch": MAX_BATCH,
        "instances": 1,
        "capacity_bytes": 16_000_000_000,
        "source": "estimated",
    }
    with edited_build(repository / "shapes" / "1") as build:
        build["gpus"]["t4"]["memory"] = memory | figures


def replace_graph(repository, **kind):
    version = repository / "shapes" / "1"
    model = brightness_graph(version / "model.onnx", **kind)
    with edited_build(version) as build:
        build["graph"]["sha256"] = model.sha256


def replace_plan(repository, file, content, in_record=None):
    """As if the plan had been published with this content."""
    version = repository / "shapes" / "1"
    (version / file).write_bytes(content)
    with edited_build(version) as build:
        for record in build["plans"]:
            if record["file"] == file:
                record.update(in_record or {})
