from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from builder import parity
from builder.artifacts import Head, NetworkModel, NetworkOutput, Precision
from builder.errors import ExportError, ParityError, SpecError, WeightsError
from builder.export import checked_imgsz, export_module, export_network
from builder.head import attach_head
from builder.onnx_weights import import_onnx
from builder.precision import convert_precision, tail_nodes
from builder.runtimes import OPENVINO_BF16
from builder.weights import Network, load_network
from tests.networks import FAMILIES, head_spec, live_model, photographs, save_checkpoint

IMAGES = photographs(160)


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request, tmp_path_factory) -> tuple[Network, NetworkModel]:
    folder = tmp_path_factory.mktemp(request.param)
    network = load_network(save_checkpoint(live_model(request.param), folder / "m.pt"))
    return network, export_network(network, None, folder / "network.onnx")


@pytest.fixture(scope="module")
def half(exported: tuple[Network, NetworkModel]) -> NetworkModel:
    model = exported[1]
    pixels = parity.to_pixels(IMAGES)
    return convert_precision(model, Precision.FP16, pixels, model.path.with_name("half.onnx"))


def reference_of(network: Network) -> parity.Reference:
    return parity.torch_reference(network, IMAGES, 0.7, 300)


@pytest.mark.parametrize("head", list(Head))
def test_fp32_graphs_compute_what_pytorch_computes(
    exported: tuple[Network, NetworkModel], head: Head, tmp_path: Path
) -> None:
    network, model = exported
    spec = head_spec(model, head)
    attach_head(model, spec, tmp_path / "model.onnx")
    report = parity.measure_parity(reference_of(network), model, tmp_path / "model.onnx", IMAGES, spec)
    assert report.failures(parity.TOLERANCES[Precision.FP32]) == []
    for served in report.served.values():
        assert served.reference_detections >= 20
        assert served.matched == 1.0
        assert served.box_px.largest < 0.1


def test_fp16_graphs_are_fp16_and_close_to_pytorch(
    exported: tuple[Network, NetworkModel], half: NetworkModel, tmp_path: Path
) -> None:
    network, _ = exported
    graph = onnx.load(half.path)
    weights = [t for t in graph.graph.initializer if np.prod(t.dims) > 64]
    assert weights
    assert {t.data_type for t in weights} == {onnx.TensorProto.FLOAT16}
    spec = head_spec(half)
    attach_head(half, spec, tmp_path / "model.onnx")
    report = parity.measure_parity(reference_of(network), half, tmp_path / "model.onnx", IMAGES, spec)
    # An untrained network is chaotic: it magnifies rounding as no trained one does. The limits of a build are tighter.
    loose = parity.Tolerance(probability_p95=0.15, box_p95_px=8, matched=0.85)
    assert report.failures(loose) == []


def test_served_graph_has_the_contract(exported: tuple[Network, NetworkModel], tmp_path: Path) -> None:
    _, model = exported
    attach_head(model, head_spec(model), tmp_path / "d.onnx")
    attach_head(model, head_spec(model, Head.RAW), tmp_path / "r.onnx")

    def ends(path: Path) -> list[tuple[str, int, list[int]]]:
        graph = onnx.load(path).graph
        return [
            (v.name, v.type.tensor_type.elem_type, [d.dim_value for d in v.type.tensor_type.shape.dim[1:]])
            for v in (*graph.input, *graph.output)
        ]

    uint8, fp32 = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    assert ends(tmp_path / "d.onnx") == [("images", uint8, [160, 160, 3]), ("detections", fp32, [300, 6])]
    raw = [300, 6] if model.nms_free else [4 + 3, 525]
    assert ends(tmp_path / "r.onnx") == [("images", fp32, [3, 160, 160]), ("output0", fp32, raw)]
    # TensorRT reads UINT8 only through a Cast.
    graph = onnx.load(tmp_path / "d.onnx").graph
    assert [n.op_type for n in graph.node if "images" in n.input] == ["Cast"]
    assert {n.domain for n in graph.node} <= {"", "ai.onnx"}, "a plugin would not load everywhere"


def test_export_is_the_same_bytes_each_time(exported: tuple[Network, NetworkModel], tmp_path: Path) -> None:
    network, model = exported
    again = export_network(network, None, tmp_path / "again.onnx")
    assert again.path.read_bytes() == model.path.read_bytes()
    for path in (tmp_path / "a.onnx", tmp_path / "b.onnx"):
        attach_head(model, head_spec(model), path)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_broken_graph_fails_parity(tmp_path: Path) -> None:
    network = load_network(save_checkpoint(live_model("yolo11n"), tmp_path / "m.pt"))
    model = export_network(network, None, tmp_path / "network.onnx")
    spec = head_spec(model)
    graph = onnx.load(model.path)
    weight = next(t for t in graph.graph.initializer if len(t.dims) == 4)
    values = onnx.numpy_helper.to_array(weight) * 1.05
    weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), weight.name))
    onnx.save(graph, model.path)
    attach_head(model, spec, tmp_path / "model.onnx")
    report = parity.measure_parity(reference_of(network), model, tmp_path / "model.onnx", IMAGES, spec)
    for precision in (Precision.FP32, Precision.FP16):
        with pytest.raises(ParityError, match="probabilities off"):
            parity.check_parity(report, precision)


def test_bf16_has_limits_of_its_own_and_int8_none() -> None:
    off = parity.Difference(largest=0.05, p95=0.05)
    network = parity.NetworkParity(probability=off, box_px=off)
    reports = {
        name: parity.ParityReport(images=1, network={name: network}, served={}) for name in ("openvino", OPENVINO_BF16)
    }
    assert len(reports["openvino"].failures(parity.TOLERANCES[Precision.FP16])) == 1
    assert reports[OPENVINO_BF16].failures(parity.TOLERANCES[Precision.FP16]) == []
    far = parity.Difference(largest=0.5, p95=0.5)
    worse = parity.NetworkParity(probability=far, box_px=far)
    report = parity.ParityReport(images=1, network={OPENVINO_BF16: worse}, served={})
    assert len(report.failures(parity.TOLERANCES[Precision.FP16])) == 1
    assert report.failures(parity.TOLERANCES[Precision.INT8]) == []


def test_a_graph_of_nan_fails_parity() -> None:
    nan = parity.Difference.of(np.array([0.0, np.nan]))
    network = parity.NetworkParity(probability=nan, box_px=nan)
    served = parity.ServedParity(reference_detections=0, matched=1.0, confidence=nan, box_px=nan)
    report = parity.ParityReport(images=1, network={"r": network}, served={"r": served})
    assert len(report.failures(parity.TOLERANCES[Precision.FP16])) == 3


@pytest.mark.parametrize("imgsz", [(650, 640), (640, 650), (100, 100), (0, 32)])
def test_imgsz_that_is_no_multiple_of_the_stride_names_the_nearest(imgsz: tuple[int, int]) -> None:
    with pytest.raises(SpecError, match="the nearest is --imgsz"):
        checked_imgsz(imgsz, 32)
    assert checked_imgsz((384, 640), 32) == (384, 640)


def test_imgsz_of_the_flag_wins_over_the_checkpoint(tmp_path: Path) -> None:
    network = load_network(save_checkpoint(live_model("yolo11n"), tmp_path / "m.pt"))
    assert network.trained_imgsz == (160, 160)
    assert export_network(network, (96, 224), tmp_path / "n.onnx").imgsz == (96, 224)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory) -> Path:
    """What a user of Ultralytics has: its own export, dynamic, FP32."""
    from ultralytics import YOLO

    folder = tmp_path_factory.mktemp("onnx")
    model = YOLO(save_checkpoint(live_model("yolo11n"), folder / "m.pt"))
    return Path(model.export(format="onnx", dynamic=True, imgsz=160, simplify=False))


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("head", list(Head))
def test_a_users_onnx_file_is_served_as_it_computes(
    onnx_file: Path, head: Head, precision: Precision, tmp_path: Path
) -> None:
    original, _ = import_onnx(onnx_file, None, None, tmp_path / "network.onnx")
    assert original.output is NetworkOutput.DECODED
    assert (original.imgsz, original.names) == ((160, 160), ("0", "1", "2"))
    model = convert_precision(original, precision, parity.to_pixels(IMAGES), tmp_path / "converted.onnx")
    spec = head_spec(model, head)
    attach_head(model, spec, tmp_path / "model.onnx")
    reference = parity.onnx_reference(original, IMAGES, spec)
    report = parity.measure_parity(reference, model, tmp_path / "model.onnx", IMAGES, spec)
    loose = parity.Tolerance(probability_p95=0.15, box_p95_px=8, matched=0.85)
    assert report.failures(loose if precision is Precision.FP16 else parity.TOLERANCES[precision]) == []
    assert report.served["openvino"].reference_detections >= 20


def test_decoding_in_a_users_onnx_file_stays_fp32(onnx_file: Path, tmp_path: Path) -> None:
    original, _ = import_onnx(onnx_file, None, None, tmp_path / "network.onnx")
    tail = tail_nodes(onnx.load(original.path))
    assert any("Softmax" in name for name in tail)
    assert not any(name.endswith("cv2.0.2/Conv") for name in tail)
    model = convert_precision(original, Precision.FP16, parity.to_pixels(IMAGES), tmp_path / "half.onnx")
    graph = onnx.shape_inference.infer_shapes(onnx.load(model.path)).graph
    types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    softmax = next(n for n in graph.node if n.name in tail and n.op_type == "Softmax" and "dfl" in n.name)
    assert types[softmax.output[0]] == onnx.TensorProto.FLOAT


def test_onnx_files_that_cannot_be_served_are_told_why(onnx_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"

    def refusal(path: Path, kind: type[Exception] = WeightsError, **options: object) -> str:
        arguments = {"imgsz": None, "names": None} | options
        with pytest.raises(kind) as caught:
            import_onnx(path, arguments["imgsz"], arguments["names"], out)
        return str(caught.value)

    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    assert "empty" in refusal(empty)
    page = tmp_path / "page.onnx"
    page.write_bytes(b"<html>404</html>")
    assert "no readable ONNX file" in refusal(page) or "no ONNX file" in refusal(page)
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(onnx_file.read_bytes()[:100_000])
    assert "ONNX" in refusal(truncated)
    assert "3 classes" in refusal(onnx_file, SpecError, names=("a", "b"))
    half = onnx.load(onnx_file)
    half.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(half, tmp_path / "half.onnx")
    assert "half=False" in refusal(tmp_path / "half.onnx")
    other = onnx.load(onnx_file)
    next(p for p in other.metadata_props if p.key == "task").value = "segment"
    onnx.save(other, tmp_path / "segment.onnx")
    assert "segment model" in refusal(tmp_path / "segment.onnx")


def test_a_network_that_needs_more_memory_than_there_is_is_an_export_error(tmp_path: Path) -> None:
    import torch

    class Hungry(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.new_empty(1 << 57)

    with pytest.raises(ExportError, match=r"more memory .* give a smaller --imgsz"):
        export_module(Hungry(), {"pixels": torch.zeros(1, 3, 32, 32)}, ("boxes",), tmp_path / "network.onnx")


def test_a_part_that_does_not_fit_is_an_export_error(tmp_path: Path) -> None:
    network = load_network(save_checkpoint(live_model("yolo11n"), tmp_path / "m.pt"))
    model = export_network(network, None, tmp_path / "network.onnx")
    graph = onnx.load(model.path)
    graph.graph.output[0].name = "elsewhere"
    graph.graph.node[-1].output[0] = graph.graph.node[-1].output[0]
    onnx.save(graph, model.path)
    with pytest.raises(ExportError):
        attach_head(model, head_spec(model), tmp_path / "model.onnx")
