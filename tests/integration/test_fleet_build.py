"""``python -m builder build`` for several GPUs, and the doctor on what it publishes."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from builder import plan_command
from builder.gpus import find_gpu
from builder.manifest import read_manifest
from builder.releases import find_release
from tests.networks import live_model, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]
ONCE = {"export", "precision", "head", "parity"}


def builder(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "builder", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)


@pytest.fixture(scope="module")
def common(tmp_path_factory) -> tuple[object, ...]:
    folder = tmp_path_factory.mktemp("fleet")
    weights = save_checkpoint(live_model("yolov8n", gain=1.0), folder / "plant.pt")
    return ("--weights", weights, "--cache", folder / "cache", "--json")


@pytest.fixture(scope="module")
def one(common, tmp_path_factory) -> dict[str, object]:
    """A build for one GPU, which fills the cache."""
    done = builder("build", *common, "--gpu", "t4", "--repository", tmp_path_factory.mktemp("one") / "repository")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("all") / "repository"


@pytest.fixture(scope="module")
def fleet(one, common, repository: Path) -> dict[str, object]:
    gpus = ("--gpu", "t4", "--gpu", "l4", "--gpu", "a10", "--sla-ms", 30, "--priority-levels", 2, "--encoded")
    done = builder("build", *common, *gpus, "--repository", repository)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"said": done.stderr}


def config(repository: Path, path: str):
    return text_format.Parse((repository / "plant" / path).read_text(), pb.ModelConfig())


def test_a_build_that_only_changes_the_gpus_runs_what_depends_on_them_alone(one, fleet) -> None:
    assert {stage["name"] for stage in one["stages"] if not stage["reused"]} == ONCE | {"compile"}
    assert {stage["name"] for stage in fleet["stages"] if not stage["reused"]} == {"compile"}
    assert {stage["name"] for stage in fleet["stages"] if stage["reused"]} >= ONCE


def test_each_gpu_has_its_own_settings_memory_and_compile_check(fleet, repository: Path) -> None:
    build = read_manifest(repository / "plant" / "1")["build"]
    assert build["spec"]["gpu"] == ["t4", "l4", "a10"]
    assert build["plans"] == []
    for name in ("t4", "l4", "a10"):
        gpu, own = build["gpus"][name], config(repository, f"configs/{name}.pbtxt")
        assert gpu["compute_capability"] == find_gpu(name).compute_capability
        assert gpu["compile_check"]["outcome"] == "compiled"
        assert gpu["memory"]["capacity_bytes"] == find_gpu(name).memory_gb * 1e9
        assert gpu["estimate"]["latency_ms"] <= 30
        assert own.max_batch_size == gpu["settings"]["max_batch"]
        assert own.instance_group[0].count == gpu["settings"]["instances"]
        assert own.dynamic_batching.priority_levels == 2
    whole = config(repository, "config.pbtxt")
    assert whole.max_batch_size == min(gpu["settings"]["max_batch"] for gpu in build["gpus"].values())
    assert whole.backend == "onnxruntime"


def test_encoded_images_are_taken_by_models_beside_it(fleet, repository: Path) -> None:
    assert fleet["beside"] == ["plant_decode", "plant_select", "plant_jpeg"]
    ensemble = text_format.Parse((repository / "plant_jpeg" / "config.pbtxt").read_text(), pb.ModelConfig())
    assert [step.model_name for step in ensemble.ensemble_scheduling.step] == ["plant_decode", "plant", "plant_select"]


def test_the_last_lines_are_commands_that_the_builder_takes(fleet) -> None:
    for gpu in ("t4", "l4", "a10"):
        line = fleet["gpus"][gpu]["plan_command"]
        assert f"  {line}\n" in fleet["said"]
        words = shlex.split(line)
        assert words[:3] == ["docker", "run", "--rm"]
        script = words.index("/project/deploy/build_plan.sh")
        assert (ROOT / "deploy" / "build_plan.sh").is_file()
        command = argparse.ArgumentParser()
        plan_command.add_arguments(command)
        flags = command.parse_args(words[script + 1 :])
        assert (flags.repository, flags.model, flags.gpu) == (Path("/models"), "plant", gpu)


def test_the_doctor_finds_nothing_that_would_fail(fleet, repository: Path) -> None:
    done = builder("doctor", "--repository", repository, "--triton", "26.09")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].startswith("ok: 4 models")


def test_gpus_that_plans_cannot_tell_apart_are_refused_before_anything_is_built(common, tmp_path: Path) -> None:
    done = builder("build", *common, "--gpu", "a10,a2", "--repository", tmp_path / "repository")
    assert done.returncode == 2
    assert "a10 and a2 are both of compute capability 8.6" in done.stderr
    assert "export" not in done.stderr
    assert not (tmp_path / "repository").exists()


def test_a_build_that_cannot_fit_names_what_would_and_publishes_nothing(common, tmp_path: Path) -> None:
    huge = ("--gpu", "jetson-orin-nano-8gb", "--max-batch", 256, "--max-queue-size", 256, "--instances", 16)
    done = builder("build", *common, *huge, "--repository", tmp_path / "repository")
    assert done.returncode == 1
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "jetson-orin-nano-8gb: expected at most 8 GB" in error
    assert "the most that fits" in error
    assert not (tmp_path / "repository").exists()


def test_the_memory_command_agrees_with_the_build(fleet, common) -> None:
    done = builder("memory", *common, "--gpu", "t4", "--batch", fleet["gpus"]["t4"]["settings"]["max_batch"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["gpus"]["t4"]["budget"] == fleet["gpus"]["t4"]["memory"]


def test_help_is_quick_to_import() -> None:
    """No command's flags need a heavy library."""
    code = "import sys; import builder.cli; builder.cli.parser(); print([m for m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    heavy = {"torch", "onnx", "numpy", "ultralytics", "openvino", "cv2", "tritonclient", "pydantic", "tensorrt"}
    assert not heavy & set(done.stdout.replace("'", "").replace(",", "").strip("[]\n").split())


def test_a_release_that_does_not_run_on_a_gpu_is_refused_and_none_is_chosen_by_default(common, tmp_path: Path) -> None:
    flags = ("--gpu", "rtx-5090", "--repository", tmp_path / "repository")
    refused = builder("build", *common, *flags, "--triton", "24.04")
    assert refused.returncode == 2
    assert "it does not run on compute capability 12.0, which rtx-5090 has" in refused.stderr
    jetson = builder("build", *common, "--gpu", "jetson-agx-orin-64gb", "--repository", tmp_path / "repository")
    assert jetson.returncode == 0, jetson.stderr
    command = json.loads(jetson.stdout)["gpus"]["jetson-agx-orin-64gb"]["plan_command"]
    assert find_release(command.rpartition("--triton ")[2].strip()).takes("8.7") is not False
