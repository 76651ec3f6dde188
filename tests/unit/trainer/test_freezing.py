"""Stages of freezing."""

from __future__ import annotations

import pytest

from builder.errors import SpecError
from builder.model_description import build_module, read_yaml
from trainer.freezing import Layout, apply_stage, stage_at, stages_of, still_statistics

LAYOUT = Layout(backbone=11, neck=12)


def test_stages_follow_one_another() -> None:
    stages = stages_of(["backbone,neck:0-2", "backbone:0-5@4", "none@10"], LAYOUT, epochs=20)
    assert [sorted(stage.layers) for stage in stages] == [[*range(14)], [*range(6)], []]
    assert [stage_at(stages, epoch).epoch for epoch in (0, 2, 3, 8, 9, 19)] == [0, 0, 3, 3, 9, 9]


def test_without_stages_all_layers_learn() -> None:
    (stage,) = stages_of([], LAYOUT, epochs=1)
    assert stage.layers == frozenset()
    (first, second) = stages_of(["head@2"], LAYOUT, epochs=3)
    assert (first.layers, second.layers) == (frozenset(), frozenset({23}))


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["backbone:0-11"], "the backbone has the layers 0 to 10"),
        (["backbone:3-1"], "the backbone has the layers"),
        (["tail"], "expected parts such as backbone"),
        (["backbone@0"], "an epoch from 1 to 20"),
        (["backbone@21"], "an epoch from 1 to 20"),
        (["backbone", "neck"], "join them by a comma"),
        (["backbone,neck,head"], "nothing would be left to learn"),
    ],
)
def test_wrong_stage_is_told(texts: list[str], told: str) -> None:
    with pytest.raises(SpecError, match=told):
        stages_of(texts, LAYOUT, epochs=20)


def test_frozen_layers_neither_learn_nor_move_their_statistics() -> None:
    model = build_module(read_yaml("yolo11n.yaml"), classes=2, origin="test")
    stage = stages_of(["backbone:0-1"], LAYOUT, epochs=1)[0]
    told = apply_stage(model, stage)
    model.train()
    still_statistics(model, stage)
    learning = {int(name.split(".")[1]) for name, p in model.named_parameters() if p.requires_grad}
    assert learning == set(range(2, 24)) - {11, 12, 14, 15, 18, 21}  # layers without parameters
    assert not model.model[0].bn.training
    assert model.model[2].cv1.bn.training
    assert "frozen: backbone:0-1" in told
    apply_stage(model, stages_of([], LAYOUT, epochs=1)[0])
    still = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert still == ["model.23.dfl.conv.weight"]
