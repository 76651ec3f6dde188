"""What a training begins with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from builder.errors import SpecError, WeightsError
from trainer.starting_weights import starting_weights

SAMPLE = Path("examples/shapes/shapes.pt")
NAMES = ("circle", "triangle", "square", "cross", "star")
LAST = "model.23.cv3.0.2.weight"


def start(names: tuple[str, ...] = NAMES, *, partial: bool = False, model: str | None = None,
          weights: Path | None = SAMPLE):  # fmt: skip
    return starting_weights(weights=weights, model=model, names=names, allow_partial=partial)


def test_same_classes_take_every_tensor() -> None:
    begun = start()
    assert begun.report == (f"{SAMPLE}: 499 of 499 tensors taken, 5 classes",)
    assert begun.origin["weights"] == "shapes.pt"
    assert all(parameter.requires_grad for parameter in begun.module.parameters())


def test_other_order_of_the_same_names_moves_the_rows() -> None:
    known, turned = start().module.state_dict()[LAST], start(NAMES[::-1])
    assert torch.equal(turned.module.state_dict()[LAST], known.flip(0))
    assert "5 taken by name" in turned.report[-1]


def test_more_classes_keep_what_is_known() -> None:
    known, begun = start().module.state_dict()[LAST], start(("moon", *NAMES, "heart"))
    rows = begun.module.state_dict()[LAST]
    assert torch.equal(rows[1:6], known)
    assert "5 taken by name" in begun.report[-1]
    assert "2 begin anew" in begun.report[-1]
    assert "model.23.cv3" in begun.report[1]


def test_as_many_classes_of_other_names_keep_none_of_the_rows() -> None:
    known, begun = start().module.state_dict()[LAST], start(("a", "b", "c", "d", "e"))
    rows = begun.module.state_dict()[LAST]
    assert begun.report[-1].endswith("no name is in both, all 5 begin anew")
    assert torch.allclose(rows, known.mean(dim=0).expand_as(known))


def test_branch_of_another_width_begins_anew_and_says_so() -> None:
    begun = start(tuple(f"kind {number}" for number in range(80)))
    assert "another width" in begun.report[-1]
    assert begun.report[0].endswith("80 classes")


def test_another_network_needs_leave_and_reports_what_was_taken() -> None:
    with pytest.raises(WeightsError, match="--allow-partial"):
        start(model="yolo11n.yaml")
    begun = start(model="yolo11n.yaml", partial=True)
    assert "tensors taken" in begun.report[0]
    assert "begin anew" in begun.report[1]


def test_wrong_starts_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="expected what to start from"):
        start(weights=None)
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"expected a \.pt"):
        start(weights=graph)
    from ultralytics.nn.tasks import SegmentationModel

    other = tmp_path / "seg.pt"
    torch.save({"model": SegmentationModel("yolo11n-seg.yaml", nc=5, verbose=False), "train_args": {}}, other)
    with pytest.raises(WeightsError, match="segmentation model"):
        start(weights=other)


def test_random_weights_follow_the_generators() -> None:
    torch.manual_seed(3)
    first = start(weights=None, model="yolo11n.yaml").module.state_dict()
    torch.manual_seed(3)
    second = start(weights=None, model="yolo11n.yaml").module.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
