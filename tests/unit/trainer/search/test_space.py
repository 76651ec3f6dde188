"""What a search may try, and what it draws."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import SpecError
from trainer.search.space import NAMES, Dimension, Kind, Space, read_space, space_from_json, with_values
from trainer.settings import FRACTIONS, TrainSettings

SPACE = """# what is tried
lr0: {loguniform: [1e-4, 1e-2]}
mosaic:
  uniform: [0, 1]
close_mosaic: {randint: [0, 3]}
optimizer: {choice: [SGD, AdamW]}
cos_lr: {choice: [true, false]}
"""


def space_of(folder: Path, text: str) -> Space:
    path = folder / "space.yaml"
    path.write_text(text)
    return read_space(path)


def test_every_value_is_of_its_kind_and_range(tmp_path: Path) -> None:
    space = space_of(tmp_path, SPACE)
    drawn = [space.draw(0, number) for number in range(1, 200)]
    assert all(1e-4 <= values["lr0"] <= 1e-2 for values in drawn)
    # Every power of ten alike: of two, each has half.
    assert 70 < sum(values["lr0"] < 1e-3 for values in drawn) < 130
    assert all(0 <= values["mosaic"] <= 1 for values in drawn)
    assert {values["close_mosaic"] for values in drawn} == {0, 1, 2, 3}
    assert {values["optimizer"] for values in drawn} == {"SGD", "AdamW"}
    assert {values["cos_lr"] for values in drawn} == {True, False}
    settings = with_values(TrainSettings(data=tmp_path, run=tmp_path, hyperparameters={"box": 7.0}), drawn[0])
    assert settings.lr0 == drawn[0]["lr0"]
    assert settings.hyperparameters["mosaic"] == drawn[0]["mosaic"]
    assert settings.hyperparameters["box"] == 7.0


@given(seed=st.integers(0, 2**31), number=st.integers(1, 10_000))
def test_a_value_depends_on_seed_number_and_name_alone(seed: int, number: int) -> None:
    rate = Dimension(name="lr0", kind=Kind.LOGUNIFORM, values=(1e-5, 1e-1))
    mosaic = Dimension(name="mosaic", kind=Kind.UNIFORM, values=(0.0, 1.0))
    alone, together = Space((rate,)).draw(seed, number), Space((mosaic, rate)).draw(seed, number)
    assert together["lr0"] == alone["lr0"]
    assert float(f"{alone['lr0']:.6g}") == alone["lr0"]


def test_a_space_is_kept_as_it_was_read(tmp_path: Path) -> None:
    space = space_of(tmp_path, SPACE)
    assert space_from_json(space.to_json()) == space


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mosaic: {uniform: [0, 1]}\nlr: {uniform: [0, 1]}", "line 2: lr is nothing that can be searched; there are: "),
        ("epochs: {choice: [1]}", "line 1: epochs is nothing that can be searched"),
        ("\n\nlr0: 0.1", "line 3: lr0: expected {uniform: [lowest, highest]} or {loguniform: "),
        ("lr0: {gauss: [0, 1]}", "line 1: lr0: expected {uniform"),
        ("lr0: {loguniform: [0, 1]}", "loguniform begins above 0, got 0.0"),
        ("lr0: {uniform: [0.1, 2]}", "expected a value from 0 to 1, got 2.0"),
        ("lr0: {uniform: [0.5, 0.1]}", "expected [lowest, highest] after uniform, got [0.5, 0.1]"),
        ("lr0: {choice: [fast]}", "expected a finite number, got 'fast'"),
        ("lr0: {choice: [.nan]}", "expected a finite number, got nan"),
        ("batch: {choice: [8, 8.5]}", "expected a whole number, got 8.5"),
        ("batch: {randint: [0, 8]}", "batch: expected a whole number of 1 or more, got 0"),
        ("nbs: {randint: [0, 8]}", "nbs: expected a whole number of 1 or more, got 0"),
        ("imgsz: {randint: [64, 128]}", "imgsz: expected {choice: […]}, got randint"),
        ("imgsz: {choice: [64, 65]}", "imgsz: expected a multiple of 32 pixels, got 65"),
        ("optimizer: {choice: [sgd]}", "optimizer: expected one of auto, SGD"),
        ("cos_lr: {choice: [1]}", "expected true or false, got 1"),
        ("mosaic: {choice: []}", "expected a list after choice, got []"),
        ("mosaic: {choice: [0, 1, 0.0]}", "a choice stands twice"),
        ("weights: {choice: [nowhere.pt]}", "there is no file nowhere.pt"),
        ("mosaic: {choice: [0]}\nmosaic: {choice: [1]}", "line 2: mosaic stands twice"),
        ("[a, b]: {choice: [0]}", "line 1: what is no name"),
        ("mosaic: {choice: [0]}\nlr0: {uniform: [0", "line 2: no YAML"),
        ("- lr0", "expected settings and what they may be"),
        ("", "expected settings and what they may be"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SpecError) as raised:
        space_of(tmp_path, text)
    assert told in str(raised.value)
    assert str(tmp_path / "space.yaml") in str(raised.value)


def test_ranges_are_ultralytics_own() -> None:
    from ultralytics.cfg import CFG_FRACTION_KEYS

    assert NAMES & CFG_FRACTION_KEYS == FRACTIONS


def test_files_lie_where_the_space_lies(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("nc: 1")
    space = space_of(tmp_path, "model: {choice: [small.yaml, yolo11n.yaml]}")
    assert space.dimensions[0].values == (str(tmp_path / "small.yaml"), "yolo11n.yaml")
