from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from builder.artifacts import NetworkModel, NetworkOutput, OnnxModel, Precision
from builder.cache import file_sha256
from builder.calibration import calibration_batches, choose_calibration
from builder.compile_check import Outcome, check_compiles
from builder.dataset import read_folder
from builder.engine import Profile
from builder.errors import DataError, ExportError
from builder.export import export_network
from builder.head import attach_head
from builder.histograms import CalibrationMethod, Histogram
from builder.layers import candidate_groups, convolutions, quantized_share
from builder.onnx_weights import import_onnx
from builder.parity import to_pixels
from builder.precision import tail_nodes
from builder.quantization import Calibration, calibrate, quantize
from builder.runtimes import RUNTIMES, run_batch
from builder.weights import load_network
from tests.networks import head_spec, live_model, photographs, save_checkpoint

SHAPES = Path(__file__).parents[3] / "examples" / "shapes"
FAMILIES = ("yolov8n", "yolo12n", "yolov10n", "yolo26n")


@pytest.fixture(scope="module")
def pixels(tmp_path_factory) -> np.ndarray:
    """FP32 [16, 3, 320, 320]: images of the sample."""
    folder = tmp_path_factory.mktemp("data")
    arguments = ["--out", str(folder), "--train", "16", "--val", "1", "--size", "320"]
    subprocess.run([sys.executable, str(SHAPES / "generate.py"), *arguments], check=True, capture_output=True)
    chosen = choose_calibration(read_folder(folder / "images" / "train"), (320, 320), 16, minimum=16)
    return np.concatenate(list(calibration_batches(chosen, 4)))


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> NetworkModel:
    """The trained sample: an untrained network magnifies rounding as no trained one does."""
    path = tmp_path_factory.mktemp("sample") / "network.onnx"
    return export_network(load_network(SHAPES / "shapes.pt"), (320, 320), path)


@pytest.fixture(scope="module")
def calibration(sample: NetworkModel, pixels: np.ndarray, tmp_path_factory) -> Calibration:
    return calibrate(sample, np.split(pixels, 4), tmp_path_factory.mktemp("calibration"))


@pytest.fixture(scope="module")
def int8(sample: NetworkModel, calibration: Calibration, pixels: np.ndarray) -> NetworkModel:
    return quantize(sample, calibration, pixels[:2], sample.path.with_name("int8.onnx"))


def outputs(runtime: str, network: NetworkModel, pixels: np.ndarray) -> list[np.ndarray]:
    return run_batch(runtime, RUNTIMES[runtime], network.path, "pixels", pixels)


def likeness(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return min(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(ours, theirs, strict=True))


def scales_of(path: Path) -> dict[str, np.ndarray]:
    """By the name of the DequantizeLinear; its zero points are checked on the way."""
    graph = onnx.load(path).graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not tensors[node.input[2]].any()
            assert tensors[node.input[2]].dtype == np.int8
            found[node.name] = tensors[node.input[1]].astype(np.float32)
    return found


def is_quantized(path: Path) -> dict[str, bool]:
    return {each.name: each.quantized for each in convolutions(path)}


def test_int8_computes_what_fp32_computes(
    sample: NetworkModel, int8: NetworkModel, calibration: Calibration, pixels: np.ndarray, tmp_path: Path
) -> None:
    expected = outputs("onnxruntime", sample, pixels[:4])
    assert likeness(outputs("openvino", int8, pixels[:4]), expected) > 0.99
    fp32_rest = quantize(sample, calibration, pixels[:2], tmp_path / "q.onnx", rest=Precision.FP32)
    for runtime in RUNTIMES:
        assert likeness(outputs(runtime, fp32_rest, pixels[:4]), expected) > 0.99


def test_onnxruntime_runs_the_fp16_rest_and_truncates_in_it(
    sample: NetworkModel, int8: NetworkModel, pixels: np.ndarray
) -> None:
    # Its QuantizeLinear in FP16 on the CPU rounds towards zero (1.24): a figure from it says nothing of the graph.
    found = outputs("onnxruntime", int8, pixels[:4])
    assert 0.7 < likeness(found, outputs("onnxruntime", sample, pixels[:4])) < 0.99


def test_most_of_the_work_is_int8_and_the_sensitive_ends_are_not(int8: NetworkModel) -> None:
    assert quantized_share(int8.path) >= 0.9
    quantized = is_quantized(int8.path)
    assert quantized["/model.2/cv1/conv/Conv"]
    assert quantized["/model.23/cv2.0/cv2.0.1/conv/Conv"]
    left = [name for name, yes in quantized.items() if not yes]
    assert "/model.0/conv/Conv" in left
    assert {f"/model.23/{b}.{i}/{b}.{i}.2/Conv" for b in ("cv2", "cv3") for i in range(3)} <= set(left)
    # depthwise, and the pointwise that reads it
    assert {"/model.23/cv3.0/cv3.0.0/cv3.0.0.0/conv/Conv", "/model.23/cv3.0/cv3.0.0/cv3.0.0.1/conv/Conv"} <= set(left)


def test_quantizers_are_symmetric_and_their_scales_sane(int8: NetworkModel, calibration: Calibration) -> None:
    graph = onnx.load(int8.path).graph
    scales = scales_of(int8.path)
    assert all(np.isfinite(s).all() and (s > 0).all() and (s < 10).all() for s in scales.values())
    # Activations have one scale, weights one a channel, held as INT8.
    weights = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            tensor = weights[node.input[0]]
            assert tensor.data_type == onnx.TensorProto.INT8
            assert scales[node.name].shape == (tensor.dims[0],)
            assert np.abs(numpy_helper.to_array(tensor).astype(int)).max() == 127
        if node.op_type == "QuantizeLinear":
            assert scales[node.name].shape == ()
            measured = calibration.histograms[node.input[0]].largest
            assert 0 < scales[node.name] <= max(h.largest for h in calibration.histograms.values()) / 127 * 1.01
            assert measured > 0
    rest = [t for t in graph.initializer if t.data_type != onnx.TensorProto.INT8 and np.prod(t.dims) > 64]
    assert {t.data_type for t in rest} <= {onnx.TensorProto.FLOAT16}


def test_tensors_that_are_concatenated_share_a_scale(int8: NetworkModel, calibration: Calibration) -> None:
    assert calibration.concatenated
    scale = {n.input[0]: n.input[1] for n in onnx.load(int8.path).graph.node if n.op_type == "QuantizeLinear"}
    values = {t.name: numpy_helper.to_array(t) for t in onnx.load(int8.path).graph.initializer}
    for names in calibration.concatenated:
        assert len({float(values[scale[name]]) for name in names if name in scale}) <= 1


def test_the_same_inputs_give_the_same_bytes(
    sample: NetworkModel, int8: NetworkModel, calibration: Calibration, pixels: np.ndarray, tmp_path: Path
) -> None:
    calibrate(sample, np.split(pixels, 4)[::-1], tmp_path)  # the order of the images does not matter
    for name in ("placed.onnx", "histograms.npz", "concatenated.json"):
        assert (tmp_path / name).read_bytes() == (calibration.placed.parent / name).read_bytes()
    result = quantize(sample, Calibration.load(tmp_path), pixels[:2], tmp_path / "int8.onnx")
    assert result.path.read_bytes() == int8.path.read_bytes()


def test_excluded_groups_are_given_back_and_the_rest_stays(
    sample: NetworkModel, int8: NetworkModel, calibration: Calibration, pixels: np.ndarray, tmp_path: Path
) -> None:
    groups = {group.name: group for group in candidate_groups(int8.path)}
    assert {"model.2", "model.16", "model.23.cv2.0"} <= set(groups)
    assert sum(g.share for g in groups.values()) == pytest.approx(quantized_share(int8.path))
    given_back = ("model.4", "model.23.cv2.0")
    mixed = quantize(sample, calibration, pixels[:2], tmp_path / "mixed.onnx", exclude=given_back)
    lost = {name for group in given_back for name in groups[group].convolutions}
    assert is_quantized(mixed.path) == {k: v and k not in lost for k, v in is_quantized(int8.path).items()}
    expected = quantized_share(int8.path) - sum(groups[name].share for name in given_back)
    assert quantized_share(mixed.path) == pytest.approx(expected)
    reference = outputs("openvino", sample, pixels[:4])
    assert likeness(outputs("openvino", mixed, pixels[:4]), reference) > 0.99
    remaining = scales_of(mixed.path)
    before = scales_of(int8.path)
    assert remaining.keys() < before.keys()
    assert all(np.array_equal(remaining[name], before[name]) for name in remaining)


def test_everything_given_back_leaves_no_quantizer(
    sample: NetworkModel, int8: NetworkModel, calibration: Calibration, pixels: np.ndarray, tmp_path: Path
) -> None:
    every = [group.name for group in candidate_groups(int8.path)]
    half = quantize(sample, calibration, pixels[:2], tmp_path / "half.onnx", exclude=every)
    assert scales_of(half.path) == {}
    assert quantized_share(half.path) == 0
    assert candidate_groups(half.path) == ()
    assert likeness(outputs("openvino", half, pixels[:2]), outputs("openvino", sample, pixels[:2])) > 0.9999


def test_an_unknown_group_is_an_error(
    sample: NetworkModel, calibration: Calibration, pixels: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"no layers are called model\.99"):
        quantize(sample, calibration, pixels[:2], tmp_path / "q.onnx", exclude=["model.2", "model.99"])
    assert list(tmp_path.iterdir()) == []


def test_an_activation_that_is_always_zero_is_not_quantized(
    sample: NetworkModel, calibration: Calibration, pixels: np.ndarray, tmp_path: Path
) -> None:
    dead = "/model.3/act/Mul_output_0"
    changed = replace(calibration, histograms={**calibration.histograms, dead: Histogram.empty()})
    model = quantize(sample, changed, pixels[:2], tmp_path / "q.onnx", rest=Precision.FP32)
    assert not is_quantized(model.path)["/model.4/cv1/conv/Conv"]
    assert all((s > 1e-6).all() for s in scales_of(model.path).values())


def test_calibration_without_images_or_with_nan_is_refused(
    sample: NetworkModel, pixels: np.ndarray, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="none came"):
        calibrate(sample, [], tmp_path)
    broken = pixels[:1].copy()
    broken[0, 0, 100, 100] = np.nan
    with pytest.raises(DataError, match=r"not every value is finite in /model\.0"):
        calibrate(sample, [broken], tmp_path)


def test_progress_counts_the_images(sample: NetworkModel, pixels: np.ndarray, tmp_path: Path) -> None:
    seen: list[int] = []
    calibrate(sample, np.split(pixels[:6], 3), tmp_path, seen.append)
    assert seen == [2, 4, 6]


def compile_for_gpus(network: NetworkModel, path: Path) -> None:
    attach_head(network, head_spec(network), path)
    model = OnnxModel(path=path, sha256=file_sha256(path), inputs=(), outputs=())
    checks = check_compiles(model, ("8.6", "8.9"), [Profile(batch_min=1, batch_opt=4, batch_max=8)])
    assert [(check.compute_capability, check.outcome, check.message) for check in checks] == [
        ("8.6", Outcome.COMPILED, ""),
        ("8.9", Outcome.COMPILED, ""),
    ]


def test_tensorrt_rtx_compiles_the_sample_for_ampere_and_ada(int8: NetworkModel, tmp_path: Path) -> None:
    compile_for_gpus(int8, tmp_path / "model.onnx")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_mostly_int8_runs_and_compiles(family: str, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(live_model(family), tmp_path / "m.pt")
    network = export_network(load_network(checkpoint), None, tmp_path / "network.onnx")
    images = to_pixels(photographs(160))
    calibration = calibrate(network, [images], tmp_path)
    model = quantize(network, calibration, images, tmp_path / "int8.onnx")
    assert quantized_share(model.path) >= 0.8
    for runtime in RUNTIMES:
        assert all(np.isfinite(each).all() for each in outputs(runtime, model, images))
    compile_for_gpus(model, tmp_path / "model.onnx")


def test_decoding_in_a_users_onnx_file_stays_fp32(tmp_path: Path) -> None:
    from ultralytics import YOLO

    file = YOLO(save_checkpoint(live_model("yolo11n"), tmp_path / "m.pt")).export(
        format="onnx", dynamic=True, imgsz=160, simplify=False
    )
    network, _ = import_onnx(Path(file), None, None, tmp_path / "network.onnx")
    assert network.output is NetworkOutput.DECODED
    images = to_pixels(photographs(160))
    model = quantize(network, calibrate(network, [images], tmp_path), images, tmp_path / "int8.onnx")
    assert quantized_share(model.path) >= 0.8
    tail = set(tail_nodes(onnx.load(network.path)))
    graph = onnx.shape_inference.infer_shapes(onnx.load(model.path)).graph
    types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    source = {name: n.op_type for n in graph.node for name in n.output}
    for node in graph.node:
        if node.name in tail:
            assert not any(source.get(name) == "DequantizeLinear" for name in node.input)
        if node.name in tail and node.op_type == "Softmax":
            assert types[node.output[0]] == onnx.TensorProto.FLOAT
    for runtime in RUNTIMES:
        outputs(runtime, model, images)


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_ranges_cover_what_matters(method: CalibrationMethod) -> None:
    from builder.histograms import covered_range

    histogram = Histogram.empty()
    rng = np.random.default_rng(0)
    for _ in range(20):
        histogram.add(rng.normal(size=(4, 5000)).astype(np.float32))
    histogram.add(np.array([37.0], np.float32))  # one outlier among 400 000
    limit = covered_range(histogram, method)
    if method is CalibrationMethod.MAX:
        assert limit == 37.0
    else:
        assert 2.5 < limit < 37.0 / 2
    assert covered_range(Histogram.empty(), method) == 0


def test_a_histogram_forgets_nothing_as_its_range_grows() -> None:
    values = [np.full(10, v, np.float32) for v in (0.001, -5.0, 300.0, 0.0, 2.0)]
    forwards, backwards = Histogram.empty(), Histogram.empty()
    for each in values:
        forwards.add(each)
    for each in reversed(values):
        backwards.add(each)
    np.testing.assert_array_equal(forwards.counts, backwards.counts)
    assert forwards.counts.sum() == 50
    assert (forwards.limit, forwards.largest) == (512.0, 300.0) == (backwards.limit, backwards.largest)
    with pytest.raises(ValueError, match="finite"):
        forwards.add(np.array([np.inf], np.float32))
