"""Repositories as ``build`` and ``plan`` publish them, small, and tools to damage a copy of one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.artifacts import NetworkModel, NetworkOutput, OnnxModel, TensorSpec
from builder.cache import file_sha256
from builder.deployment import graph_to_json, serving_to_json, version_content
from builder.engine import HardwareCompatibility, Profile
from builder.gpus import find_gpu
from builder.manifest import MANIFEST, manifest_text, record_of
from builder.plans import PlanFile, PlanRecord, plan_file
from builder.repository import publish_content
from builder.serving import ServingSettings
from tests.deployments import deployment
from tests.plans import plan_with_filler

SIZE = 32
CLASSES = ("circle", "square")
MAX_BATCH = 4
TENSORRT = "10.13.3.9"
TRITON = "25.10"
"""The release that holds it."""


def brightness_graph(path: Path, *, batch: str | int = "batch", factor: float = 1.0) -> OnnxModel:
    """An ONNX file of the detections contract, but with one row: the brightness of each image."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["pixels"], ["brightest"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["brightest", "column"], ["brightest_B11"]),
        helper.make_node("Mul", ["brightest_B11", "factor"], ["detections"]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("detections", TensorProto.FLOAT, [batch, 1, 6])],
        [
            helper.make_tensor("column", TensorProto.INT64, [3], [-1, 1, 1]),
            helper.make_tensor("factor", TensorProto.FLOAT, [1, 1, 6], [factor] * 6),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return OnnxModel(
        path=path,
        sha256=file_sha256(path),
        inputs=(TensorSpec(name="images", dtype="UINT8", shape=(SIZE, SIZE, 3)),),
        outputs=(TensorSpec(name="detections", dtype="FP32", shape=(1, 6)),),
    )


def publish_shapes(
    repository: Path,
    folder: Path,
    *,
    gpus: Sequence[str] = ("t4", "l4"),
    plans: Sequence[str] = (),
    compatibility: HardwareCompatibility = HardwareCompatibility.NONE,
    settings: ServingSettings | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Publish a version of ``shapes`` as ``build`` does, with a plan for each GPU of ``plans``; its folder.

    The plans are a header with filler: TensorRT builds none without a GPU. ``folder`` takes what is published.
    """
    model = brightness_graph(folder / "model.onnx")
    served = deployment(model, gpus=gpus, classes=CLASSES, settings=settings or ServingSettings(max_batch=MAX_BATCH))
    build = {
        "spec": {"head": "detections", "hardware_compatibility": compatibility.value, "optimization_level": None},
        "network": _network(model.path).to_json(),
        "graph": graph_to_json(model),
        "cpu": dataclasses.asdict(served.cpu),
        "gpus": {each.gpu.name: serving_to_json(each) for each in served.fleet},
    }
    by_file: dict[str, list[str]] = {}
    for gpu in plans:
        by_file.setdefault(plan_file(find_gpu(gpu), compatibility), []).append(gpu)
    built = {file: _plan(folder, file, users, model, compatibility) for file, users in by_file.items()}
    own = {"model.onnx": model.path, "model.py": b"# serves\n", "labels.txt": b"circle\nsquare\n"}
    content = version_content(served, built, compatibility, files={**own, **(files or {})}, build=build)
    return publish_content(repository, "shapes", lambda: content).path


def _plan(
    folder: Path, file: str, users: Sequence[str], model: OnnxModel, compatibility: HardwareCompatibility
) -> PlanFile:
    capability = find_gpu(users[0]).compute_capability
    (folder / file).write_bytes(plan_with_filler(TENSORRT, seed=int(float(capability) * 10)))
    record = PlanRecord(
        file=file,
        compute_capability=capability,
        gpus=tuple(users),
        graph_sha256=model.sha256,
        library="tensorrt",
        version=TENSORRT,
        hardware_compatibility=compatibility.value,
        profiles=(Profile(batch_min=1, batch_opt=MAX_BATCH, batch_max=MAX_BATCH),),
        workspace_bytes=1 << 30,
        device_memory_bytes=None,
        device=f"NVIDIA {users[0].upper()}",
        driver="580.95.05",
        triton=TRITON,
    )
    return PlanFile(path=folder / file, record=record)


def _network(path: Path) -> NetworkModel:
    return NetworkModel(
        path=path,
        output=NetworkOutput.LOGITS,
        imgsz=(SIZE, SIZE),
        strides=(8, 16, 32),
        reg_max=1,
        names=CLASSES,
        nms_free=False,
        parameters=6,
    )


@contextmanager
def edited_build(version: Path) -> Iterator[dict[str, Any]]:
    """The manifest's ``build``, to be changed; the version is then as if it had been published so."""
    build = json.loads((version / MANIFEST).read_text())["build"]
    yield build
    sign(version, build)


@contextmanager
def edited_config(model: Path, path: str = "config.pbtxt") -> Iterator[Any]:
    """The configuration as a message, to be changed; the version is then as if it had been published with it."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    message = text_format.Parse((model / path).read_text(), pb.ModelConfig())
    yield message
    text = text_format.MessageToString(message, as_utf8=True)
    (model / path).write_text(text)
    (model / "1" / "configs" / Path(path).name).write_text(text)
    sign(model / "1")


def sign(version: Path, build: Mapping[str, Any] | None = None) -> None:
    """Write the manifest anew for the files that are there."""
    old = json.loads((version / MANIFEST).read_text())
    paths = (path for path in version.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = {path.relative_to(version).as_posix(): record_of(path) for path in paths}
    text = manifest_text(old["name"], old["version"], old["build"] if build is None else build, files)
    (version / MANIFEST).write_text(text)
