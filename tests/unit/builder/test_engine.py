from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from builder import parity
from builder.artifacts import NetworkModel, OnnxModel, Precision
from builder.cache import Stage, file_sha256
from builder.compile_check import CompileCheck, Outcome, check_compiles
from builder.engine import (
    CompileRefusedError,
    EngineOptions,
    HardwareCompatibility,
    Library,
    Profile,
    build_plan,
    configure,
)
from builder.errors import BuilderError, ExportError
from builder.export import export_network
from builder.gpus import find_gpu
from builder.head import attach_head
from builder.precision import convert_precision
from builder.serving import GpuServing, ServingSettings
from builder.spec import BuildSpec
from builder.stages import Stages
from builder.weights import load_network
from tests.networks import FAMILIES, head_spec, live_model, photographs, save_checkpoint

BATCHES = (Profile(batch_min=1, batch_opt=4, batch_max=8),)
TARGETS = ("7.5", "8.0", "8.6", "8.9", "12.0")


def model_of(path: Path) -> OnnxModel:
    return OnnxModel(path=path, sha256=file_sha256(path), inputs=(), outputs=())


def serve(network: NetworkModel, path: Path) -> OnnxModel:
    attach_head(network, head_spec(network), path)
    return model_of(path)


def graph(
    path: Path, *nodes: onnx.NodeProto, shape: Sequence[int | str] = ("batch", 3, 32, 32), domain: str = ""
) -> OnnxModel:
    """A graph of a few nodes from ``images`` FP32 to ``out``."""
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    body = helper.make_graph(nodes, "graph", [images], [out])
    onnx.save(helper.make_model(body, opset_imports=opsets, ir_version=9), path)
    return model_of(path)


@pytest.fixture
def relu(tmp_path: Path) -> OnnxModel:
    return graph(tmp_path / "relu.onnx", helper.make_node("Relu", ["images"], ["out"], name="relu"))


@pytest.fixture(scope="module")
def yolo11n(tmp_path_factory) -> NetworkModel:
    folder = tmp_path_factory.mktemp("yolo11n")
    return export_network(
        load_network(save_checkpoint(live_model("yolo11n"), folder / "m.pt")), None, folder / "n.onnx"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_fp16_graphs_compile_for_turing_ampere_ada_and_blackwell(family: str, tmp_path: Path) -> None:
    network = export_network(load_network(save_checkpoint(live_model(family), tmp_path / "m.pt")), None, tmp_path / "n")
    half = convert_precision(network, Precision.FP16, parity.to_pixels(photographs(160)), tmp_path / "half.onnx")
    checks = check_compiles(serve(half, tmp_path / "model.onnx"), TARGETS, BATCHES)
    assert [(check.compute_capability, check.outcome) for check in checks] == [(sm, Outcome.COMPILED) for sm in TARGETS]
    for check in checks:
        assert check.warning is None
        assert check.plan_bytes > 2 * network.parameters
        # One image of 160 px at 16 channels in FP16 is the least that any of them keeps, the batch is 8.
        assert check.activation_bytes is not None
        assert check.activation_bytes > 8 * 80 * 80 * 16 * 2
        assert check.version
        assert check.to_json()["outcome"] == "compiled"


def test_fp32_attention_is_refused_for_turing_in_the_compilers_own_words(yolo11n: NetworkModel, tmp_path: Path) -> None:
    turing, ampere = check_compiles(serve(yolo11n, tmp_path / "model.onnx"), ("7.5", "8.6"), BATCHES)
    assert turing.outcome is Outcome.REFUSED
    assert "attn/MatMul' for Turing (SM75): FP32 GEMM is not supported" in turing.message
    assert "CUDA driver" not in turing.message
    assert turing.warning is not None
    assert turing.warning.startswith(f"SM 7.5: TensorRT-RTX {turing.version} refuses the graph, which may be a limit")
    assert turing.message in turing.warning
    assert ampere.outcome is Outcome.COMPILED


def test_every_operator_that_the_parser_does_not_know_is_named(tmp_path: Path) -> None:
    model = graph(
        tmp_path / "model.onnx",
        helper.make_node("Relu", ["images"], ["a"], name="/model.0/Relu"),
        helper.make_node("Det", ["a"], ["b"], name="/model.3/Det"),
        helper.make_node("SoftNms", ["b"], ["out"], name="/nms", domain="my.operators"),
        domain="my.operators",
    )
    with pytest.raises(ExportError) as caught:
        check_compiles(model, TARGETS, BATCHES)
    message = str(caught.value)
    assert "node /model.3/Det (Det): unsupported node;" in message
    assert "node /nms (SoftNms): invalid node: Plugin not found" in message
    assert "/model.0/Relu" not in message
    assert "\n" not in message


def test_types_that_do_not_fit_are_named_without_the_drivers_noise(tmp_path: Path) -> None:
    model = graph(
        tmp_path / "model.onnx",
        helper.make_node("Cast", ["images"], ["half"], to=TensorProto.FLOAT16, name="cast"),
        helper.make_node("Add", ["images", "half"], ["out"], name="/model.7/Add"),
    )
    with pytest.raises(ExportError, match=r"node /model\.7/Add \(Add\): .* types Float and Half") as caught:
        check_compiles(model, ("8.6",), BATCHES)
    assert "cuda" not in str(caught.value).lower()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", None])
def test_a_file_that_is_no_graph_is_an_export_error(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    model = OnnxModel(path=path, sha256="", inputs=(), outputs=())
    with pytest.raises(ExportError, match=r"no such file|holds no graph"):
        check_compiles(model, ("8.6",), BATCHES)


def test_profiles_must_fit_the_graphs_input(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["images"], ["out"])
    with pytest.raises(ExportError, match="fixed batch of 1, and the profile asks for 1 to 8"):
        check_compiles(graph(tmp_path / "fixed.onnx", node, shape=(1, 3, 32, 32)), ("8.6",), BATCHES)
    open_size = graph(tmp_path / "open.onnx", node, shape=("batch", 3, "height", "width"))
    with pytest.raises(ExportError, match="give the profile its height and width"):
        check_compiles(open_size, ("8.6",), BATCHES)
    sizes = [Profile(batch_max=4, imgsz=size) for size in ((384, 640), (640, 640))]
    assert [check.outcome for check in check_compiles(open_size, ("8.6",), sizes)] == [Outcome.COMPILED]
    assert sizes[0].shapes("images", (-1, -1, -1, 3)) == ((1, 384, 640, 3), (1, 384, 640, 3), (4, 384, 640, 3))
    assert Profile(imgsz=(160, 96)).shapes("images", (-1, 160, 96, 3))[0] == (1, 160, 96, 3)
    with pytest.raises(ExportError, match=r"fixed shape \[-1, 160, 160, 3\], and the profile asks for \(640, 640\)"):
        Profile(imgsz=(640, 640)).shapes("images", (-1, 160, 160, 3))
    with pytest.raises(ValueError, match="1 <= batch_min <= batch_opt <= batch_max"):
        Profile(batch_opt=9, batch_max=8)


def test_a_capability_that_rtx_does_not_know_is_said_to_be_unchecked(relu: OnnxModel) -> None:
    hopper, ada = check_compiles(relu, ("9.0", "8.9", "9.0"), BATCHES)
    assert (hopper.outcome, ada.outcome) == (Outcome.NOT_CHECKED, Outcome.COMPILED)
    assert hopper.warning is not None
    assert "SM 9.0 is not checked" in hopper.warning
    assert "7.5, 8.0, 8.6, 8.9" in hopper.warning


def test_without_tensorrt_rtx_the_result_names_the_extra(relu: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # Python's own way to say that a module cannot be imported.
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    (check,) = check_compiles(relu, ("8.6",), BATCHES)
    assert check.outcome is Outcome.NOT_CHECKED
    assert "pip install 'yolo-triton[tensorrt-rtx]'" in check.message
    with pytest.raises(BuilderError, match=r"yolo-triton\[tensorrt-rtx\]"):
        build_plan(relu, BATCHES, relu.path.with_name("model.plan"), library=Library.TENSORRT_RTX)


def children() -> set[int]:
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found |= set(map(int, path.read_text().split()))
    return found


def test_a_compiler_that_crashes_ends_one_check_and_no_build(yolo11n: NetworkModel, tmp_path: Path) -> None:
    before = children()

    def crash(what: str, done: int, total: int) -> None:
        if what.startswith("SM 8.6"):
            for pid in children() - before:
                os.kill(pid, signal.SIGSEGV)

    crashed, well = check_compiles(serve(yolo11n, tmp_path / "m.onnx"), ("8.6", "8.9"), BATCHES, progress=crash)
    assert crashed.outcome is Outcome.FAILED
    assert crashed.warning is not None
    assert "did not finish: the compiler's process ended (killed by SIGSEGV)" in crashed.warning
    assert well.outcome is Outcome.COMPILED


def test_a_compiler_that_hangs_is_stopped(yolo11n: NetworkModel, tmp_path: Path) -> None:
    before = children()
    (check,) = check_compiles(serve(yolo11n, tmp_path / "m.onnx"), ("8.6",), BATCHES, limit_s=0.2)
    assert check.outcome is Outcome.FAILED
    assert check.warning is not None
    assert "not finished within 0.2 s" in check.warning
    assert children() <= before


def test_what_progress_raises_ends_the_check_and_its_process(relu: OnnxModel) -> None:
    before = children()

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_compiles(relu, ("8.6",), BATCHES, progress=stop)
    assert children() <= before


def test_a_check_that_did_not_finish_is_not_kept_where_a_ctrl_c_ends_its_telling(
    relu: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(stage: Stage) -> None:
        raise KeyboardInterrupt

    killed = CompileCheck(compute_capability="7.5", outcome=Outcome.FAILED, seconds=0, version="1.7")
    monkeypatch.setattr("builder.compile_check.check_compiles", lambda *arguments, **options: (killed,))
    asked = {"weights": relu.path, "images": [relu.path], "cache": tmp_path / "cache"}
    stages = Stages(spec=BuildSpec.from_sources(asked, None), weights=relu.path, report=interrupt)
    fleet = [GpuServing(gpu=find_gpu("t4"), settings=ServingSettings(), workspace_bytes=0)]
    with pytest.raises(KeyboardInterrupt):
        stages.compile_checks(relu, fleet)
    assert list((tmp_path / "cache" / "compile").iterdir()) == []


def test_steps_and_log_of_the_compiler_come_through(relu: OnnxModel, caplog: pytest.LogCaptureFixture) -> None:
    steps: list[tuple[str, int, int]] = []
    with caplog.at_level(logging.DEBUG, "builder.tensorrt"):
        check_compiles(relu, ("8.6",), BATCHES, progress=lambda *step: steps.append(step))
    assert steps[-1][0] == "SM 8.6: Building engine"
    assert steps[-1][1] == steps[-1][2]
    assert all(1 <= done <= total for _, done, total in steps)
    assert any(record.getMessage().startswith("SM 8.6: Detected 1 inputs") for record in caplog.records)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# TensorRT-RTX says so of its timing cache, and keeps TensorRT's calls.
@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_a_plan_is_the_compilers_bytes_alone_and_is_written_whole(relu: OnnxModel, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    options = EngineOptions(
        workspace_bytes=1 << 28,
        optimization_level=2,
        hardware_compatibility=HardwareCompatibility.NONE,
        timing_cache=cache,
    )
    assert EngineOptions.from_json(options.to_json()) == options
    path = tmp_path / "1" / "model_sm86.plan"
    target = {"library": Library.TENSORRT_RTX, "compute_capability": "8.6"}
    plan = build_plan(relu, BATCHES, path, options=options, **target)
    assert plan.sha256 == file_sha256(path)
    assert not path.read_bytes()[4:].startswith(b"{"), "Triton cannot load a plan behind a metadata header"
    assert [each.name for each in path.parent.iterdir()] == ["model_sm86.plan"]
    assert plan.to_json()["profiles"][0]["batch_max"] == 8
    assert "path" not in plan.to_json()
    build_plan(relu, BATCHES, path, options=options, **target)
    cache.write_bytes(b"not a timing cache")
    build_plan(relu, BATCHES, path, options=options, **target)


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_options_reach_the_compilers_configuration(tmp_path: Path) -> None:
    import tensorrt_rtx

    logger = tensorrt_rtx.Logger()
    config = tensorrt_rtx.Builder(logger).create_builder_config()
    defaults = (config.get_memory_pool_limit(tensorrt_rtx.MemoryPoolType.WORKSPACE), config.builder_optimization_level)
    configure(tensorrt_rtx, config, EngineOptions())
    limit = config.get_memory_pool_limit(tensorrt_rtx.MemoryPoolType.WORKSPACE)
    assert (limit, config.builder_optimization_level) == defaults
    assert config.get_timing_cache() is None
    options = EngineOptions(workspace_bytes=3 << 20, optimization_level=2, timing_cache=tmp_path / "none yet")
    configure(tensorrt_rtx, config, options)
    assert config.get_memory_pool_limit(tensorrt_rtx.MemoryPoolType.WORKSPACE) == 3 << 20
    assert config.builder_optimization_level == 2
    assert config.get_timing_cache() is not None


@pytest.mark.parametrize("level", [each for each in HardwareCompatibility if each is not HardwareCompatibility.NONE])
def test_a_hardware_compatibility_that_the_compiler_would_drop_is_refused(
    level: HardwareCompatibility, relu: OnnxModel, tmp_path: Path
) -> None:
    path = tmp_path / "model.plan"
    options = EngineOptions(hardware_compatibility=level)
    with pytest.raises(BuilderError, match=f"TensorRT-RTX .* has no hardware compatibility {level.value}"):
        build_plan(relu, BATCHES, path, library=Library.TENSORRT_RTX, compute_capability="8.6", options=options)
    assert not path.exists()


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="what this machine's GPU loads has a figure")
def test_a_plan_that_this_machine_cannot_load_has_no_memory_figure_and_no_error(
    relu: OnnxModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "builder.tensorrt"):
        plan = build_plan(
            relu, BATCHES, tmp_path / "model.plan", library=Library.TENSORRT_RTX, compute_capability="8.6"
        )
    assert plan.device_memory_bytes is None
    assert plan.to_json()["device_memory_bytes"] is None
    assert any("CUDA driver" in record.getMessage() for record in caplog.records)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_a_refused_or_stopped_build_leaves_no_plan(yolo11n: NetworkModel, tmp_path: Path) -> None:
    model = serve(yolo11n, tmp_path / "model.onnx")
    path = tmp_path / "model.plan"
    target = {"library": Library.TENSORRT_RTX, "compute_capability": "7.5"}
    with pytest.raises(CompileRefusedError, match="FP32 GEMM is not supported"):
        build_plan(model, BATCHES, path, **target)

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(model, BATCHES, path, progress=stop, **target)
    assert not path.exists()


def test_checks_become_json(relu: OnnxModel) -> None:
    check = CompileCheck(compute_capability="8.6", outcome=Outcome.REFUSED, message="no", seconds=1.2345, version="1.7")
    assert check.to_json() == {
        "compute_capability": "8.6",
        "outcome": "refused",
        "message": "no",
        "seconds": 1.23,
        "plan_bytes": 0,
        "activation_bytes": None,
        "version": "1.7",
    }
