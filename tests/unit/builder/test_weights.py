from __future__ import annotations

import collections
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from ultralytics.nn.tasks import DetectionModel

from builder.checkpoint import unsafe_globals
from builder.errors import WeightsError
from builder.model_description import build_module
from builder.weights import find_weights, load_network
from tests.networks import FAMILIES, save_checkpoint


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    torch.manual_seed(1)
    model = DetectionModel("yolo11n.yaml", nc=3, verbose=False)
    model.names = {0: "bolt", 1: "nut", 2: "gear"}
    return model


@pytest.fixture
def checkpoint(model: DetectionModel, tmp_path: Path) -> Path:
    return save_checkpoint(model, tmp_path / "m.pt")


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(WeightsError) as caught:
        load_network(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_rebuilt_from_inert_parts_computes_what_the_pickled_model_does(
    family: str, tmp_path: Path
) -> None:
    original = DetectionModel(f"{family}.yaml", nc=3, verbose=False).eval()
    path = save_checkpoint(original, tmp_path / "m.pt")
    network = load_network(path)
    if network.nms_free:
        original.end2end = True
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(network.module(pixels)[0], original(pixels)[0])
    assert unsafe_globals(path) == []
    assert (network.strides, network.nms_free) == ((8, 16, 32), family in ("yolov10n", "yolo26n"))
    assert network.trained_imgsz == (160, 160)


def test_names_come_from_the_checkpoint_and_flags_win(checkpoint: Path) -> None:
    assert load_network(checkpoint).names == ("bolt", "nut", "gear")
    assert load_network(checkpoint, names=("a", "b", "c")).names == ("a", "b", "c")


def test_the_ema_is_taken_where_there_is_one(model: DetectionModel, tmp_path: Path) -> None:
    torch.manual_seed(2)
    ema = DetectionModel("yolo11n.yaml", nc=3, verbose=False)
    torch.save({"model": model, "ema": ema.half()}, tmp_path / "m.pt")
    loaded = load_network(tmp_path / "m.pt").module.state_dict()["model.0.conv.weight"]
    assert torch.equal(loaded, ema.float().state_dict()["model.0.conv.weight"])


class _Hostile:
    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_a_global_that_is_no_layer_is_refused_by_name_and_not_run(model: DetectionModel, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    torch.save({"model": model, "x": _Hostile(os.system, f"touch {witness}")}, tmp_path / "m.pt")
    message = refusal(tmp_path / "m.pt")
    assert "posix.system" in message
    assert "--trust-weights" in message
    assert not witness.exists()


def test_a_function_of_ultralytics_is_not_a_layer(model: DetectionModel, tmp_path: Path) -> None:
    from ultralytics.nn.modules.conv import autopad
    from ultralytics.nn.tasks import yaml_model_load

    for function in (yaml_model_load, autopad):
        torch.save({"model": model, "x": _Hostile(function, "x")}, tmp_path / "m.pt")
        assert f"{function.__module__}.{function.__name__}" in refusal(tmp_path / "m.pt")


def test_a_layer_outside_the_layer_modules_is_refused(model: DetectionModel, tmp_path: Path) -> None:
    from ultralytics.nn.autobackend import AutoBackend  # an nn.Module whose constructor unpickles files

    torch.save({"model": model, "x": _Hostile(AutoBackend, "evil.pt")}, tmp_path / "m.pt")
    assert "ultralytics.nn.autobackend.AutoBackend" in refusal(tmp_path / "m.pt")


def test_no_constructor_of_an_allowed_class_runs_on_the_files_data(model: DetectionModel, tmp_path: Path) -> None:
    # DetectionModel evaluates its description's activation: as a pickled call it would run this.
    witness = tmp_path / "ran"
    hostile = {**model.yaml, "activation": f"__import__('os').system('touch {witness}')"}
    torch.save({"model": model, "x": _Hostile(DetectionModel, hostile)}, tmp_path / "m.pt")
    assert len(load_network(tmp_path / "m.pt").keys) == 0
    assert not witness.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "__import__('os').system('touch WITNESS')"},
        {"activation": "nn.SiLU(__import__('os').system('touch WITNESS'))"},
        {"head": [[[16, 19, 22], 1, "attempt_download_asset", ["nc"]]]},
        {"head": [[[16, 19, 22], 1, "nn.functional", ["nc"]]]},
        {"head": "nonsense"},
        {"backbone": [[-1, 1]]},
    ],
)
def test_a_hostile_model_description_is_refused(
    model: DetectionModel, tmp_path: Path, change: dict[str, object]
) -> None:
    witness = tmp_path / "ran"
    if "activation" in change:
        change = {"activation": str(change["activation"]).replace("WITNESS", str(witness))}
    with pytest.raises(WeightsError):
        build_module({**model.yaml, **change}, classes=3, origin="x.pt")
    assert not witness.exists()


def test_an_activation_that_is_a_layer_is_accepted(model: DetectionModel) -> None:
    module = build_module({**model.yaml, "activation": "nn.ReLU(inplace=True)"}, classes=3, origin="x.pt")
    assert any(isinstance(m, torch.nn.ReLU) for m in module.modules())


def test_trust_weights_unpickles_as_it_is(model: DetectionModel, tmp_path: Path) -> None:
    torch.save({"model": model, "x": collections.Counter(), "y": _Hostile(os.getpid)}, tmp_path / "m.pt")
    assert "posix.getpid" in refusal(tmp_path / "m.pt")
    assert load_network(tmp_path / "m.pt", trust=True).names == ("bolt", "nut", "gear")


def test_a_bare_state_dict_loads_beside_its_model(model: DetectionModel, tmp_path: Path) -> None:
    names = ("a", "b", "c")
    for content in (model.state_dict(), {"state_dict": model.state_dict()}, {"model": model.state_dict()}):
        torch.save(content, tmp_path / "m.pt")
        network = load_network(tmp_path / "m.pt", model_yaml="yolo11n.yaml", names=names)
        assert (len(network.keys), network.names) == (0, names)
    assert "--model" in refusal(tmp_path / "m.pt")


def test_a_module_prefix_is_taken_off(model: DetectionModel, tmp_path: Path) -> None:
    torch.save({f"module.{k}": v for k, v in model.state_dict().items()}, tmp_path / "m.pt")
    network = load_network(tmp_path / "m.pt", model_yaml="yolo11n.yaml", names=("a", "b", "c"))
    expected = model.state_dict()["model.0.conv.weight"]
    assert torch.equal(network.module.state_dict()["model.0.conv.weight"], expected)


def test_every_key_that_does_not_fit_is_counted_and_named(model: DetectionModel, tmp_path: Path) -> None:
    state = model.state_dict()
    del state["model.0.conv.weight"], state["model.1.bn.bias"]
    state["model.99.weight"] = torch.zeros(1)
    state["model.1.conv.weight"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "m.pt")
    options = {"model_yaml": "yolo11n.yaml", "names": ("a", "b", "c")}
    message = refusal(tmp_path / "m.pt", **options)
    assert "2 missing: model.0.conv.weight, model.1.bn.bias" in message
    assert "1 unexpected: model.99.weight" in message
    assert "1 mis-shaped: model.1.conv.weight ((3, 3), expected (32, 16, 3, 3))" in message
    assert "--allow-partial" in message
    assert len(load_network(tmp_path / "m.pt", allow_partial=True, **options).keys) == 4


def test_names_of_another_count_are_refused(checkpoint: Path) -> None:
    assert "--names gives 2 names" in refusal(checkpoint, names=("only", "two"))


@pytest.mark.parametrize("task", ["Segmentation", "Pose", "OBB", "Classification"])
def test_another_task_is_refused_by_its_name(task: str, tmp_path: Path) -> None:
    from ultralytics.nn import tasks

    suffix = {"Segmentation": "seg", "Pose": "pose", "OBB": "obb", "Classification": "cls"}[task]
    other = getattr(tasks, f"{task}Model")(f"yolo11n-{suffix}.yaml", verbose=False)
    message = refusal(save_checkpoint(other, tmp_path / "m.pt"))
    expected = {"OBB": "is an oriented-box (OBB) model"}.get(task, f"is a {task.lower()} model")
    assert expected in message
    torch.save(other.state_dict(), tmp_path / "s.pt")
    assert "only detection models" in refusal(tmp_path / "s.pt", model_yaml=f"yolo11n-{suffix}.yaml")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n <html>not found</html>", "web page"),
        (b"\x80\x02}q\x00.", "not a PyTorch checkpoint"),
        (b"PK\x03\x04 and then nothing", "damaged"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_told_for_what_it_is(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    assert expected in refusal(tmp_path / "m.pt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_checkpoint_is_damaged(checkpoint: Path, share: float) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(len(whole) * share)])
    assert "damaged" in refusal(checkpoint)


def test_a_flipped_byte_in_the_pickle_is_no_traceback(checkpoint: Path) -> None:
    with zipfile.ZipFile(checkpoint) as archive:
        entry = next(i for i in archive.infolist() if i.filename.endswith("data.pkl"))
    data = bytearray(checkpoint.read_bytes())
    for offset in range(200, 4000, 400):
        data[entry.header_offset + offset] ^= 0xFF
    checkpoint.write_bytes(data)
    refusal(checkpoint)


def test_a_zip_that_is_no_checkpoint_and_a_plain_pickle_inside_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refusal(tmp_path / "m.pt")
    with zipfile.ZipFile(tmp_path / "n.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"model": 1}, protocol=2))
        archive.writestr("archive/version", "3")
    refusal(tmp_path / "n.pt")


def test_a_torchscript_archive_is_told_for_what_it_is(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "m.pt")
    assert "TorchScript" in refusal(tmp_path / "m.pt")


def test_an_unknown_model_description_names_some(model: DetectionModel, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert "yolo11n.yaml" in refusal(tmp_path / "m.pt", model_yaml="yolo99z.yaml")


def test_missing_weights_name_the_sample(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", Path("no_such_weights.pt"), tmp_path / "none.onnx"):
        with pytest.raises(WeightsError, match=r"examples/shapes/shapes\.pt"):
            find_weights(path)
    with pytest.raises(WeightsError, match="folder"):
        find_weights(tmp_path.rename(tmp_path.with_suffix(".pt")))


def test_a_flipped_byte_in_the_weights_is_found(checkpoint: Path) -> None:
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 0xFF
    checkpoint.write_bytes(data)
    assert "damaged" in refusal(checkpoint)


@pytest.mark.parametrize("names", [{0: "a", 1: "b", "x": "c"}, {0: "a", 2: "b", 3: "c"}, {0: "a", 1: "", 2: "c"}])
def test_class_names_that_cannot_be_numbered_or_read_are_refused(
    model: DetectionModel, tmp_path: Path, names: dict[object, str]
) -> None:
    before, model.names = model.names, names
    try:
        path = save_checkpoint(model, tmp_path / "m.pt")
    finally:
        model.names = before
    assert "class names" in refusal(path)
