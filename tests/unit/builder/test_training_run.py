"""A manifest leads back to the training of its weights, where run.json is of these very weights."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from builder.cli import main
from builder.errors import SpecError
from builder.manifest import manifest_text
from builder.training_run import origin_of, training_line

SAMPLE = Path(__file__).resolve().parents[3] / "examples" / "shapes" / "shapes.pt"
CONTENT = b"trained weights"
HASH = sha256(CONTENT).hexdigest()


def record(**more: Any) -> dict[str, Any]:
    row = {"epoch": 3.0, "metrics/mAP50-95(B)": 0.8125}
    return {
        "schema": "run/1",
        "name": "shapes-1",
        "data": {"hash": "d" * 64, "names": ["circle"], "train": 64, "val": 16, "source": "/home/someone/data"},
        "start": {"model": "/home/someone/yolo11n.yaml"},
        "arguments": {"epochs": 4, "model": "/home/someone/yolo11n.yaml", "lr0": 0.01},
        "epochs": 4,
        "steps": 64,
        "seconds": 12.5,
        "parts": 1,
        "best": row,
        "last": {**row, "epoch": 4.0, "metrics/mAP50-95(B)": 0.75},
        "weights": {"best.pt": {"bytes": 15, "sha256": HASH}, "last.pt": {"bytes": 15, "sha256": "e" * 64}},
        "checkpoints": [{"file": "e0004-s00000064.pt", "epoch": 4, "step": 64, "sha256": "f" * 64}],
        "versions": {"torch": "2.15.0"},
    } | more


def a_run(folder: Path, **more: Any) -> Path:
    """A run's folder; its best weights."""
    weights = folder / "run" / "weights" / "best.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(CONTENT)
    (folder / "run" / "run.json").write_text(json.dumps(record(**more)))
    return weights


def test_record_beside_the_weights_folder_is_taken_without_paths(tmp_path: Path) -> None:
    origin = origin_of(a_run(tmp_path), HASH, None)
    assert origin.training
    assert not origin.warning
    assert origin.training["name"] == "shapes-1"
    assert origin.training["data"] == {"hash": "d" * 64, "names": ["circle"], "train": 64, "val": 16}
    assert origin.training["weights"] == {"file": "best.pt", "sha256": HASH}
    assert origin.training["arguments"] == {"epochs": 4, "model": "yolo11n.yaml", "lr0": 0.01}
    assert origin.training["best"]["metrics/mAP50-95(B)"] == 0.8125
    assert origin.training["checkpoints"][0]["sha256"] == "f" * 64
    text = manifest_text("shapes", 1, {"training": origin.training}, {})
    assert "someone" not in text
    assert str(tmp_path) not in text


def test_renamed_weights_beside_their_record_are_known_by_their_bytes(tmp_path: Path) -> None:
    weights = a_run(tmp_path)
    copied = tmp_path / "shapes.pt"
    copied.write_bytes(weights.read_bytes())
    (tmp_path / "run.json").write_bytes((tmp_path / "run" / "run.json").read_bytes())
    origin = origin_of(copied, HASH, None)
    assert origin.training
    assert origin.training["weights"]["file"] == "best.pt"


def test_line_gives_the_figures_of_these_weights(tmp_path: Path) -> None:
    training = origin_of(a_run(tmp_path), HASH, None).training
    assert training_line(training) == (
        f"trained in the run shapes-1 on the data {'d' * 12} (64 images), 4 epochs, mAP50-95 0.8125 in epoch 3: "
        f"best.pt, sha256 {HASH[:12]}"
    )
    last = origin_of(tmp_path / "run/weights/last.pt", "e" * 64, None).training
    assert "mAP50-95 0.7500 in epoch 4: last.pt" in training_line(last)


def test_record_of_other_weights_is_told_and_not_taken(tmp_path: Path) -> None:
    origin = origin_of(a_run(tmp_path), "0" * 64, None)
    assert origin.training is None
    assert f"it lists other weights (best.pt {HASH[:12]}, last.pt eeeeeeeeeeee) than best.pt (000000000000)" in (
        origin.warning
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "it is damaged"),
        ("[]", "expected a run's record with the schema run/1, got None"),
        (json.dumps(record(schema="run/9")), "got 'run/9'"),
        (json.dumps(record(weights=[])), "it is damaged"),
        (json.dumps({**record(), "data": {}}), "it is damaged (KeyError: 'hash')"),
        (json.dumps(record()).replace("0.8125", "1e999"), "it is damaged"),
    ],
)
def test_damaged_record_is_told_beside_weights_and_an_error_where_it_was_named(
    tmp_path: Path, content: str, told: str
) -> None:
    weights = a_run(tmp_path)
    path = tmp_path / "run" / "run.json"
    path.write_text(content)
    origin = origin_of(weights, HASH, None)
    assert origin.training is None
    assert told in origin.warning
    with pytest.raises(SpecError) as error:
        origin_of(weights, HASH, path)
    assert told in str(error.value)


def test_named_record_must_be_there_and_of_these_weights(tmp_path: Path) -> None:
    weights = a_run(tmp_path)
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        origin_of(weights, HASH, tmp_path / "other.json")
    with pytest.raises(SpecError, match="lists other weights"):
        origin_of(weights, "0" * 64, tmp_path / "run" / "run.json")


def test_figure_that_is_no_number_is_null(tmp_path: Path) -> None:
    weights = a_run(tmp_path, best={"epoch": 1.0, "metrics/mAP50-95(B)": float("nan")})
    training = origin_of(weights, HASH, None).training
    assert training
    assert training["best"]["metrics/mAP50-95(B)"] is None
    assert "4 epochs: best.pt" in training_line(training)


def test_weights_without_a_record_say_nothing(tmp_path: Path) -> None:
    alone = tmp_path / "alone.pt"
    alone.write_bytes(CONTENT)
    assert origin_of(alone, HASH, None).training is None
    assert not origin_of(alone, HASH, None).warning
    assert training_line(None) == ""
    assert training_line({"name": "half"}) == ""


def test_build_refuses_a_named_record_of_other_weights_before_anything_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_path = a_run(tmp_path / "other").parent.parent / "run.json"
    repository = tmp_path / "repository"
    argv = ["build", "--weights", str(SAMPLE), "--run-record", str(record_path), "--repository", str(repository)]
    assert main([*argv, "--cache", str(tmp_path / "cache")]) == 2
    error = capsys.readouterr().err
    assert f"--run-record {record_path}: it lists other weights (best.pt {HASH[:12]}" in error
    assert error.count("\n") == 1
    assert not repository.exists()
