"""The way of the data: weights go in, a version of a Triton model repository comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.artifacts import ConfigFile, Head, NetworkModel, OnnxModel
from builder.backends import openvino_model_path
from builder.cache import Stage, file_sha256, tool_versions
from builder.config_pbtxt import ServingSettings, config_files
from builder.gpus import GpuTarget, find_gpu
from builder.proof import REPORT_FILE, Proven, judging_data, prove
from builder.repository import PublishedVersion, check_model_name, check_target, publish
from builder.stages import IMAGE_TOOLS, PRECISION_TOOLS, Stages
from builder.weights import find_weights

if TYPE_CHECKING:
    from builder.compile_check import CompileCheck
    from builder.spec import BuildSpec

SERVED_BY = "onnxruntime with the TensorRT accelerator; no TensorRT plan was built"


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """What a build did."""

    spec: BuildSpec
    gpu: GpuTarget
    proven: Proven
    parity: dict[str, Any]
    compile_check: CompileCheck
    stages: tuple[Stage, ...]
    published: PublishedVersion


def build(
    spec: BuildSpec,
    report: Callable[[Stage], None],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Build:
    """Build and publish one version; ``report`` is called as each stage ends, ``progress`` while one takes long.

    Raises:
        BuilderError: a subclass by what went wrong; the repository is then as it was.
    """
    gpu = find_gpu(spec.gpu)
    check_model_name(spec.model_name)
    stages = Stages(spec=spec, weights=find_weights(spec.weights), report=report, progress=progress)
    # What is wrong with the request shall be told before anything takes long.
    check_target(spec.repository)
    data = judging_data(spec.data) if spec.data else None
    original = stages.network()
    proven = prove(stages, original, data)
    network, model = proven.network, proven.model
    parity = stages.parity(original, network, model)
    compile_check = stages.compile_check(model, gpu)
    published = publish(
        spec.repository,
        spec.model_name,
        files={
            "model.onnx": model.path,
            "model.py": openvino_model_path(),
            "labels.txt": "".join(f"{name}\n" for name in network.names).encode(),
            **({REPORT_FILE: proven.report} if proven.report else {}),
        },
        configs=lambda version: _configs(spec, gpu, network, model, version),
        build=_manifest(stages, gpu, proven, parity, compile_check),
    )
    return Build(
        spec=spec,
        gpu=gpu,
        proven=proven,
        parity=parity,
        compile_check=compile_check,
        stages=tuple(stages.done),
        published=published,
    )


def _configs(
    spec: BuildSpec, gpu: GpuTarget, network: NetworkModel, model: OnnxModel, version: int
) -> tuple[ConfigFile, ...]:
    return config_files(
        model,
        name=spec.model_name,
        version=version,
        settings=ServingSettings(
            max_batch=spec.max_batch,
            instances=spec.instances,
            max_queue_delay_us=spec.max_queue_delay_us,
            max_queue_size=spec.max_queue_size,
            queue_timeout_ms=spec.queue_timeout_ms,
            cpu_precision=spec.cpu_precision,
        ),
        gpu=gpu,
        head=spec.head,
        names=network.names,
        parameters={"metadata": _ultralytics_metadata(network)} if spec.head is Head.RAW else None,
    )


def _ultralytics_metadata(network: NetworkModel) -> str:
    """What Ultralytics' Triton client reads from the configuration: a Python literal."""
    return repr(
        {
            "task": "detect",
            "stride": max(network.strides),
            "imgsz": list(network.imgsz),
            "names": dict(enumerate(network.names)),
            "batch": 1,
            "channels": 3,
            "end2end": network.nms_free,
        }
    )


def _manifest(
    stages: Stages, gpu: GpuTarget, proven: Proven, parity: dict[str, Any], compile_check: CompileCheck
) -> dict[str, Any]:
    """From what, with what and how well the version was built; nothing that a rebuild would not reproduce."""
    spec, network, model = stages.spec, proven.network, proven.model
    # Where things lie on the building machine says nothing of the build.
    request = spec.model_dump(mode="json", exclude={"repository", "cache", "images", "data", "calibration"})
    return {
        "spec": request | {"weights": stages.weights.name, "name": spec.model_name, "gpu": gpu.name},
        "weights": {"file": stages.weights.name, "sha256": stages.weights_sha256},
        "parity_images": [{"file": i.name, "sha256": file_sha256(i)} for i in stages.images],
        "network": network.to_json(),
        "graph": {"file": "model.onnx", "sha256": model.sha256},
        "served_by": SERVED_BY,
        "parity": parity,
        "compile_check": {
            name: getattr(compile_check, name) for name in ("compute_capability", "outcome", "message", "version")
        },
        "quantization": proven.quantization,
        "accuracy": proven.accuracy,
        "tools": tool_versions(sorted({*PRECISION_TOOLS, *IMAGE_TOOLS, "tritonclient"})),
    }
