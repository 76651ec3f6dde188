"""Who takes part: the same weights built, exported and served as each project's own guide says."""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.guide_layout import write_guide_models
from benchmarks.peers.processes import PeerError, terminate
from benchmarks.peers.roboflow import HOW_TO_GET_IT, roboflow_server, write_package
from benchmarks.served import server_version, triton_server
from builder.artifacts import CpuPrecision, NetworkModel
from builder.errors import BuilderError, ExportError, SpecError
from builder.runtimes import cpu_has_bf16
from builder.spec import BuildSpec
from clients.encoded import model_names

OURS, OURS_BF16, GUIDE, GUIDE_OPENVINO = "ours", "ours_bf16", "guide", "guide_openvino"
REFERENCE = "this project, gRPC"
"""Whom the others' times are compared with."""
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """One way from a file to boxes."""

    name: str
    arithmetic: str
    spec: Callable[[int], dict[str, Any]]
    """What ``worker`` is started with, for a port where the server is; the pictures are added."""
    port: int = 0
    """Of its server; 0 where there is none, and nothing goes over a wire."""
    sessions: tuple[int, ...] = ()
    """Of its server's processes."""
    borders: bool = True
    """Whether it fills a picture up to the model's size with grey, and computes it whole."""


@dataclass(kw_only=True)
class Field:
    """All that take part, and why others do not."""

    network: NetworkModel
    contestants: list[Contestant] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def contestants(weights: Path, roboflow_python: Path | None, folder: Path, progress: Progress) -> Iterator[Field]:
    """Build, export and serve; a contestant that cannot is named with the reason.

    Raises:
        BuilderError: this project's own build of the weights fails, or its server does.
    """
    if weights.suffix.lower() != ".pt":
        raise SpecError(f"--weights {weights}: expected a .pt, which everybody can export")
    repository = folder / "repository"
    network = _build(weights, repository, progress)
    taking_part = Field(network=network)
    with contextlib.ExitStack() as stack, _asked_at_once(taking_part):
        _ours(taking_part, repository, stack)
        progress("this project is ready")
        others: dict[str, Callable[[], None]] = {
            "Ultralytics' Triton guide": lambda: _guide(taking_part, weights, repository, stack),
            "Ultralytics in process": lambda: _in_process(taking_part, weights, folder / "exports"),
            "Roboflow's inference server": lambda: _roboflow(taking_part, roboflow_python, folder, stack),
        }
        for name, add in others.items():
            try:
                add()
                progress(f"{name}: ready")
            except BuilderError as error:
                taking_part.not_run[name] = str(error)
                progress(f"{name}: not run: {error}")
        yield taking_part


@contextlib.contextmanager
def _asked_at_once(taking_part: Field) -> Iterator[None]:
    """Have all servers begin to stop where the benchmark is interrupted: each takes seconds."""
    try:
        yield
    except KeyboardInterrupt:
        terminate(session for contestant in taking_part.contestants for session in contestant.sessions)
        raise


def _build(weights: Path, repository: Path, progress: Progress) -> NetworkModel:
    from builder.pipeline import build

    spec = BuildSpec(weights=weights, name=OURS, repository=repository, encoded=True)
    built = build(spec, lambda stage: progress(f"build: {stage.name}"))
    if cpu_has_bf16():
        more = BuildSpec(weights=weights, name=OURS_BF16, repository=repository, cpu_precision=CpuPrecision.BF16)
        build(more, lambda stage: progress(f"build in bf16: {stage.name}"))
    return built.proven.network


def _ours(taking_part: Field, repository: Path, stack: contextlib.ExitStack) -> None:
    """Pixels and shared memory share a server; each of the others has its own, so that its memory is its own."""

    def add(name: str, server: Any, model: str, send: str, arithmetic: str = "FP32") -> None:
        taking_part.contestants.append(
            Contestant(
                name=name,
                arithmetic=arithmetic,
                spec=lambda port: {"kind": "detector", "url": _grpc(port), "model": model, "send": send},
                port=server.options.grpc_port,
                sessions=(server.pid,),
            )
        )

    pixels = stack.enter_context(triton_server(repository, OURS))
    taking_part.versions["tritonserver"] = server_version(pixels)
    add(REFERENCE, pixels, OURS, "pixels")
    add("this project, shared memory", pixels, OURS, "shared-memory")
    encoded = stack.enter_context(triton_server(repository, OURS, *model_names(OURS)))
    add("this project, encoded", encoded, OURS, "encoded")
    if cpu_has_bf16():
        add(
            "this project, gRPC, bf16",
            stack.enter_context(triton_server(repository, OURS_BF16)),
            OURS_BF16,
            "pixels",
            "bf16",
        )
    else:
        taking_part.not_run["this project, gRPC, bf16"] = "this CPU has no bf16"


def _guide(taking_part: Field, weights: Path, repository: Path, stack: contextlib.ExitStack) -> None:
    size_hw = taking_part.network.imgsz
    write_guide_models(weights, size_hw, repository, {GUIDE: "onnxruntime", GUIDE_OPENVINO: "openvino"})
    servers = {model: stack.enter_context(triton_server(repository, model)) for model in (GUIDE, GUIDE_OPENVINO)}
    for name, model, borders in (
        # What the guide gives: sizes are free, and its client then leaves borders out.
        ("onnxruntime", GUIDE, False),
        ("onnxruntime, borders", GUIDE, True),
        ("OpenVINO, borders", GUIDE_OPENVINO, True),
    ):
        taking_part.contestants.append(
            Contestant(
                name=f"guide, {name}",
                arithmetic="FP32",
                spec=functools.partial(_guide_client, model, size_hw, borders),
                port=servers[model].options.grpc_port,
                sessions=(servers[model].pid,),
                borders=borders,
            )
        )


def _guide_client(model: str, size_hw: tuple[int, int], borders: bool, port: int) -> dict[str, Any]:
    return _yolo(f"{_grpc(port)}/{model}", size_hw, borders)


def _in_process(taking_part: Field, weights: Path, folder: Path) -> None:
    import onnxruntime

    size_hw = taking_part.network.imgsz
    taking_part.versions["onnxruntime"] = onnxruntime.__version__
    # Of itself OpenVINO computes in bf16 where the CPU can.
    own_choice = "bf16" if cpu_has_bf16() else "FP32"
    for kind, runtime, arithmetic in (("onnx", "onnxruntime", "FP32"), ("openvino", "OpenVINO", own_choice)):
        loaded = _yolo(str(_export(weights, size_hw, folder, kind)), size_hw, True)
        taking_part.contestants.append(
            Contestant(
                name=f"YOLO() on {runtime}",
                arithmetic=arithmetic,
                spec=functools.partial(_without_server, loaded),
            )
        )


def _without_server(spec: dict[str, Any], port: int) -> dict[str, Any]:
    return spec


def _roboflow(taking_part: Field, python: Path | None, folder: Path, stack: contextlib.ExitStack) -> None:
    if python is None:
        raise PeerError(HOW_TO_GET_IT)
    if taking_part.network.nms_free:
        raise PeerError("its server is given a YOLOv8 or YOLO11 head here; these weights have one without suppression")
    package = folder / "package"
    names = list(taking_part.network.names)
    write_package(package, folder / "exports" / "onnx" / "model.onnx", taking_part.network.imgsz, names)
    server = stack.enter_context(roboflow_server(python, folder / "roboflow"))
    taking_part.versions["Roboflow's server"] = server.version
    taking_part.contestants.append(
        Contestant(
            name="Roboflow's server",
            arithmetic="FP32",
            spec=lambda port: {"kind": "roboflow", "port": port, "model": str(package), "names": names},
            port=server.port,
            sessions=(server.pid,),
        )
    )


def _grpc(port: int) -> str:
    return f"grpc://127.0.0.1:{port}"


def _yolo(model: str, size_hw: tuple[int, int], borders: bool) -> dict[str, Any]:
    return {"kind": "yolo", "model": model, "imgsz": list(size_hw), "rect": not borders}


def pytorch(weights: Path, size_hw: tuple[int, int], borders: bool) -> dict[str, Any]:
    """The worker by which others are judged: Ultralytics on PyTorch, with grey borders or without."""
    return _yolo(str(weights.resolve()), size_hw, borders)


def _export(weights: Path, size_hw: tuple[int, int], folder: Path, kind: str) -> Path:
    from ultralytics.models import YOLO
    from ultralytics.utils import LOGGER

    # The exporter writes beside the weights.
    copy = folder / kind / "model.pt"
    copy.parent.mkdir(parents=True)
    shutil.copyfile(weights, copy)
    try:
        LOGGER.setLevel(logging.ERROR)
        return Path(YOLO(copy).export(format=kind, imgsz=list(size_hw)))
    except Exception as error:  # the exporter raises its own kinds, torch's and onnx's alike
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(f"Ultralytics cannot export {weights.name} as {kind}: {reason}") from error
