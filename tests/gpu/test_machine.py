"""This machine's GPU by name, and ``python -m builder plan`` on it, from weights to a plan that runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from builder import parity
from builder.artifacts import Head
from builder.engine import Library
from builder.errors import SpecError
from builder.gpus import GpuTarget, find_gpu
from builder.nvml import read_devices
from builder.runtimes import RUNTIMES
from tests.gpu.running import Compiler, PlanRunner, Served, agreement

pytestmark = pytest.mark.gpu(reason="never run: no GPU could be had")

SAMPLE = Path(__file__).parents[2] / "examples" / "shapes"

Record = Callable[[str, object], None]


def target_or_skip() -> GpuTarget:
    """This machine's GPU in the table."""
    try:
        return find_gpu("auto")
    except SpecError as e:  # the table does not hold every GPU, and a machine may have several kinds
        pytest.skip(str(e))


def builder(*arguments: object) -> str:
    """What ``python -m builder`` prints on stdout."""
    command = [sys.executable, "-m", "builder", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_auto_is_this_machines_gpu(record_property: Record) -> None:
    import torch

    devices = read_devices()
    record_property("devices", "; ".join(map(str, devices)))
    assert all(device.driver_version for device in devices)
    if torch.cuda.is_available():
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        assert capability in {device.compute_capability for device in devices}
    gpu = target_or_skip()
    record_property("--gpu auto", gpu.name)
    assert gpu.compute_capability in {device.compute_capability for device in devices}


def test_plan_publishes_a_plan_that_runs(
    tensorrt: Compiler, served: Callable[[Head], Served], tmp_path: Path, record_property: Record
) -> None:
    gpu = target_or_skip()
    repository = ("--repository", tmp_path / "repository")
    # On a machine with the GPU, build makes the plan too: of its cache, plan shall have nothing.
    build_cache, plan_cache = (("--cache", tmp_path / name) for name in ("builds", "plans"))
    weights = ("--weights", SAMPLE / "shapes.pt", "--name", "shapes", "--images", SAMPLE / "unseen.jpg")
    builder("build", *weights, "--gpu", gpu.name, "--max-batch", 4, *repository, *build_cache)
    told = json.loads(builder("plan", "--model", "shapes", "--json", *repository, *plan_cache))
    record_property("plan", told["plan"])
    model = tmp_path / "repository" / "shapes"
    version = model / str(told["version"])
    config = text_format.Parse((model / "config.pbtxt").read_text(), pb.ModelConfig())
    assert config.backend == "tensorrt"
    assert dict(config.cc_model_filenames) == {gpu.compute_capability: told["plan"]["file"]}
    assert list(config.version_policy.specific.versions) == [told["version"]]
    assert told["plan"]["library"] == Library.TENSORRT
    assert told["plan"]["version"] == tensorrt.trt.__version__
    builder("verify", *repository)
    record_property("doctor", builder("doctor", *repository).strip())

    sample = served(Head.DETECTIONS)
    (output,) = PlanRunner(tensorrt.trt, version / told["plan"]["file"]).run(sample.images).values()
    (expected,) = RUNTIMES["onnxruntime"](version / "model.onnx")({"images": sample.images})
    found = agreement(*(parity.finish(each, sample.spec) for each in (expected, output)))
    record_property("detections", found.to_record())
    found.check()
    again = builder("plan", "--model", "shapes", *repository, *plan_cache)
    assert "unchanged, reused" in again
    assert f"unchanged: {version}" in again
