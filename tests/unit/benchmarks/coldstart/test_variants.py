"""Copies of a repository that warm less: what is taken out of them, and that nothing else is."""

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from benchmarks.coldstart.variants import Warmup, variants_of, write_variant
from builder.backends import openvino_model_path
from builder.errors import RepositoryError

CONFIG = """
name: "shapes"
backend: "python"
max_batch_size: 8
dynamic_batching { default_queue_policy { max_queue_size: 128 } }
parameters { key: "names" value { string_value: "[\\"Ärger\\"]" } }
"""
WARMUP = 'model_warmup { name: "batch_1" batch_size: 1 inputs { key: "images" value { dims: 3 random_data: true } } }\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    model = tmp_path / "repository" / "shapes"
    (model / "1").mkdir(parents=True)
    (model / "configs").mkdir()
    for name in ("config.pbtxt", "configs/cpu.pbtxt", "configs/t4.pbtxt"):
        (model / name).write_text(CONFIG + WARMUP)
    (model / "1" / "model.onnx").write_bytes(b"graph")
    (model / "1" / "model.py").write_text(openvino_model_path().read_text())
    return model.parent


def read(path: Path) -> object:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_as_built_is_the_repository_itself(repository: Path, tmp_path: Path) -> None:
    assert write_variant(repository, ["shapes"], Warmup.AS_BUILT, tmp_path) == repository


def test_only_model_warmup_is_taken_out_of_every_configuration(repository: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    copy = write_variant(repository, ["shapes"], Warmup.NO_MODEL_WARMUP, tmp_path)
    for name in ("config.pbtxt", "configs/cpu.pbtxt", "configs/t4.pbtxt"):
        assert read(copy / "shapes" / name) == text_format.Parse(CONFIG, model_config_pb2.ModelConfig())
    for name in ("1/model.onnx", "1/model.py"):
        assert (copy / "shapes" / name).read_bytes() == (repository / "shapes" / name).read_bytes()
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_nothing_warmed_keeps_model_py_beside_what_stands_in_its_place(repository: Path, tmp_path: Path) -> None:
    copy = write_variant(repository, ["shapes"], Warmup.NOTHING, tmp_path)
    assert (copy / "shapes" / "1" / "served_model.py").read_text() == openvino_model_path().read_text()
    stand_in = (copy / "shapes" / "1" / "model.py").read_text()
    compile(stand_in, "model.py", "exec")
    assert "class TritonPythonModel(served.TritonPythonModel)" in stand_in
    assert not read(copy / "shapes" / "config.pbtxt").model_warmup


def test_the_builders_own_model_is_one_that_warms_itself(repository: Path) -> None:
    """Where this fails, builder/backends/openvino_model.py starts its images by another function than ``_start``."""
    assert variants_of(repository, "shapes") == tuple(Warmup)


def test_without_a_model_py_that_warms_there_is_no_third_arrangement(repository: Path) -> None:
    (repository / "shapes" / "1" / "model.py").write_text("class TritonPythonModel: pass\n")
    assert variants_of(repository, "shapes") == (Warmup.AS_BUILT, Warmup.NO_MODEL_WARMUP)
    (repository / "shapes" / "1" / "model.py").unlink()
    assert variants_of(repository, "shapes") == (Warmup.AS_BUILT, Warmup.NO_MODEL_WARMUP)


def test_a_configuration_that_cannot_be_read_is_named(repository: Path, tmp_path: Path) -> None:
    (repository / "shapes" / "configs" / "t4.pbtxt").write_text('max_batch_size: "eight"')
    with pytest.raises(RepositoryError, match=r"configs/t4\.pbtxt: expected a Triton model configuration") as caught:
        write_variant(repository, ["shapes"], Warmup.NO_MODEL_WARMUP, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_copy_that_cannot_be_written_is_one_error(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="expected to copy shapes of"):
        write_variant(repository, ["shapes"], Warmup.NOTHING, tmp_path / "file")
