"""A student that learns from a teacher."""

from __future__ import annotations

import csv
import json
import math
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from tests.trainings import NETWORK, differing, state_of
from tests.unit.trainer.conftest import Train, interrupt_at
from trainer.distillation import LOSS, TAUGHT, distil
from trainer.distribution import Group, Process
from trainer.settings import TrainSettings
from trainer.teacher import Teacher

SAMPLE = Path("examples/shapes/shapes.pt")
END_TO_END = "end2end: true\nreg_max: 1\n"
NAMES = ("circle", "triangle", "square", "cross", "star")
GAINS = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
ALONE = Group(Process(), "cpu", 0)


def settings(*, temperature: float = 1.0, teacher: Path = SAMPLE, **weights: float) -> TrainSettings:
    return TrainSettings(
        data=Path("data.yaml"),
        run=Path("run"),
        model="m.yaml",
        teacher=teacher,
        distil_temperature=temperature,
        distil_weights=weights,
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a machine that others use, threads of so small networks wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(more: str = "") -> Any:
    """The small network; with ``END_TO_END`` it has a head of one box per object beside the other."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model: Any = DetectionModel({**yaml.safe_load(NETWORK + more), "scale": "t"}, nc=5, verbose=False)
    model.args = get_cfg(overrides={"epochs": 3})
    model.criterion = model.init_criterion()
    return model


def batch_of(teacher: dict[str, Any], images: torch.Tensor) -> dict[str, Any]:
    return {
        "img": images,
        "batch_idx": torch.zeros(1),
        "cls": torch.zeros(1, 1),
        "bboxes": torch.full((1, 4), 0.5),
        TAUGHT: teacher,
    }


def head(seed: int, *, bins: int = 4) -> dict[str, Any]:
    """Predictions of one level of 2x2 anchors for two images and three classes."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "boxes": torch.randn(2, 4 * bins, 4, generator=generator),
        "scores": torch.randn(2, 3, 4, generator=generator) * 3,
        "feats": [torch.randn(2, 6, 2, 2, generator=generator)],
    }


def loss_between(student: dict[str, Any], teacher: dict[str, Any], wanted: TrainSettings) -> float:
    """Of one step, with labels that cost nothing."""
    part = SimpleNamespace(
        hyp=GAINS, stride=torch.tensor([8.0]), loss=lambda predictions, batch: (torch.zeros(3), {"box_loss": 0.0})
    )
    distil(part, wanted, ALONE)
    loss, items = part.loss(student, {TAUGHT: {"one2many": teacher}})
    assert float(loss[3]) == pytest.approx(2 * float(items[LOSS]))
    return float(items[LOSS])


def by_hand(student: dict[str, Any], teacher: dict[str, Any], t: float) -> dict[str, float]:
    """The formulas of the module, number by number."""
    sums, confidences = {"logits": 0.0, "boxes": 0.0}, 0.0
    for image in range(2):
        for anchor in range(4):
            z_t, z_s = (each["scores"][image, :, anchor].tolist() for each in (teacher, student))
            confidence = max(1 / (1 + math.exp(-z)) for z in z_t)
            confidences += confidence
            for one, other in zip(z_t, z_s, strict=True):
                p, q = (1 / (1 + math.exp(-z / t)) for z in (one, other))
                sums["logits"] += 0.5 * t * t * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
            if confidence <= 0.05:
                continue
            d_t, d_s = (each["boxes"][image, :, anchor].view(4, -1) for each in (teacher, student))
            p, q = (d_t / t).softmax(1), (d_s / t).softmax(1)
            divergence = float((p * (p / q).log()).sum(1).mean()) * t * t
            from ultralytics.utils.metrics import bbox_iou

            middle = torch.tensor([anchor % 2 + 0.5, anchor // 2 + 0.5])
            boxes = []
            for d in (d_s, d_t):
                sides = d.softmax(1) @ torch.arange(d.shape[1]).float()
                boxes.append(torch.cat([middle - sides[:2], middle + sides[2:]]))
            iou = float(bbox_iou(*boxes, xywh=False, CIoU=True))
            sums["boxes"] += confidence * (7.5 * (1 - iou) + 1.5 * divergence)
    features = 0.0
    for image in range(2):
        maps = [each["feats"][0][image].square().sum(0).flatten() for each in (teacher, student)]
        features += float(sum((a - b) ** 2 for a, b in zip(*(each / each.norm() for each in maps), strict=True)))
    return {name: value / max(confidences, 1) for name, value in sums.items()} | {"features": features / 2}


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", ["logits", "boxes", "features"])
def test_each_part_is_its_formula(name: str, temperature: float) -> None:
    student, teacher = head(1), head(2)
    weights = {"logits": 0.0, "boxes": 0.0, "features": 0.0} | {name: 0.7}
    wanted = 0.7 * by_hand(student, teacher, temperature)[name]
    assert wanted > 0.01
    assert loss_between(student, teacher, settings(temperature=temperature, **weights)) == pytest.approx(wanted)


def test_student_that_predicts_as_its_teacher_has_nothing_to_learn() -> None:
    assert loss_between(head(1), head(1), settings(features=1.0)) == pytest.approx(0, abs=1e-5)


def test_heads_of_other_distributions_share_their_boxes() -> None:
    one = {"boxes": torch.rand(2, 4, 4) + 1, "scores": torch.full((2, 3, 4), 4.0), "feats": head(1)["feats"]}
    # All of a distribution in the bin of a distance of 1.
    many = {**one, "boxes": torch.tensor([-99.0, 99.0, -99.0, -99.0]).repeat(4)[None, :, None].repeat(2, 1, 4)}
    exact = {**one, "boxes": torch.ones(2, 4, 4)}
    boxes = settings(logits=0.0)
    assert loss_between(exact, many, boxes) == pytest.approx(0, abs=1e-5)
    assert loss_between(one, many, boxes) > 0.1


@pytest.mark.parametrize(("of_teacher", "taught"), [(END_TO_END, True), ("", False)])
def test_head_of_one_box_per_object_learns_from_its_like_alone(of_teacher: str, taught: bool) -> None:
    images = torch.rand(1, 3, 64, 64)
    source = network(of_teacher).eval()
    raw = source(images)[1]
    heads = {"one2many": raw} if "boxes" in raw else raw
    heads = {
        name: {key: value if key == "feats" else value.detach() * 5 for key, value in each.items()}
        for name, each in heads.items()
    }
    student = network(END_TO_END).train()
    for part in (student.criterion.one2many, student.criterion.one2one):
        # Labels teach nothing here: every gradient is the teacher's.
        part.loss = lambda predictions, batch: (torch.zeros(3), {"box_loss": torch.zeros(())})
    distil(student.criterion, settings(features=1.0), ALONE)
    loss, items = student(batch_of(heads, images))
    loss.sum().backward()
    assert float(items[LOSS]) > 0
    layer = student.model[-1]
    assert layer.cv3[0][-1].weight.grad.abs().sum() > 0
    other = layer.one2one_cv3[0][-1].weight.grad
    assert (other is not None and bool(other.abs().sum() > 0)) == taught


def test_teacher_speaks_of_the_datas_classes_in_their_order() -> None:
    images = torch.rand(1, 3, 64, 64)
    student: Any = torch.nn.Linear(1, 1)
    student.stride = torch.tensor([8.0, 16.0, 32.0])
    known = Teacher(settings(), student, NAMES, torch.device("cpu")).predictions(images)["one2many"]
    turned = Teacher(settings(), student, NAMES[::-1], torch.device("cpu")).predictions(images)["one2many"]
    assert torch.equal(turned["scores"], known["scores"].flip(1))
    assert torch.equal(turned["boxes"], known["boxes"])
    assert not known["scores"].requires_grad


@pytest.fixture(scope="module")
def teacher(whole_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    shutil.copy(whole_run / "weights" / "best.pt", path)
    return path


@pytest.fixture(scope="module")
def taught_run(train: Train, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught") / "run"
    assert train(folder, "--teacher", str(teacher)) == 0
    return folder


def test_interrupted_and_resumed_with_its_teacher_is_the_whole_run(
    train: Train, whole_run: Path, taught_run: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(9, patch)
        assert train(run, "--teacher", str(teacher)) == 128 + signal.SIGTERM
    elsewhere = tmp_path / "moved.pt"
    shutil.copy(teacher, elsewhere)
    assert train(run, "--resume", "--teacher", str(elsewhere)) == 0
    assert differing(state_of(taught_run), state_of(run)) == []
    assert (run / "results.csv").read_bytes() == (taught_run / "results.csv").read_bytes()

    alone, taught = state_of(whole_run), state_of(taught_run)
    assert alone["model"].keys() == taught["model"].keys()
    assert differing(alone["model"], taught["model"])
    names = [path.name for path in (whole_run / "weights").iterdir()]
    sizes = [[(each / "weights" / name).stat().st_size for name in sorted(names)] for each in (whole_run, taught_run)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)


def test_taught_run_tells_its_teacher_and_its_loss(taught_run: Path, teacher: Path) -> None:
    from builder.manifest import record_of

    rows = list(csv.DictReader((taught_run / "results.csv").open()))
    assert all(float(row["train/distil_loss"]) > 0 for row in rows)
    assert "val/box_loss" in rows[0]
    assert "val/distil_loss" not in rows[0]
    sha256 = record_of(teacher).sha256
    for name, content in (("run.json", "arguments"), ("settings.json", None)):
        record = json.loads((taught_run / name).read_bytes())
        assert (record[content] if content else record)["teacher_sha256"] == sha256
    assert json.loads((taught_run / "run.json").read_bytes())["arguments"]["teacher"] == teacher.name


def test_run_keeps_its_teacher(
    train: Train, whole_run: Path, taught_run: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(taught_run, "--resume", "--teacher", str(SAMPLE)) == 1
    assert "the run was begun with a teacher of" in capsys.readouterr().err
    assert train(whole_run, "--resume", "--teacher", str(teacher)) == 2
    assert "the run was begun with its default" in capsys.readouterr().err
    assert train(taught_run, "--resume", "--distil-weight", "boxes=3") == 2
    assert "--distil-weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--teacher", str(SAMPLE)), "at the strides 8, 16, 32, the student at 8, 16"),
        (("--teacher", "OTHER"), "knows 5 classes (ant, bee, cow, dog, eel), the data have 5 classes (circle"),
        (("--teacher", "/nowhere/t.pt"), "no weights at /nowhere/t.pt"),
        (("--distil-weight", "boxes=1"), "--distil-weight goes with --teacher"),
        (("--distil-temperature", "2"), "--distil-temperature goes with --teacher"),
        (("--teacher", str(SAMPLE), "--distil-weight", "boxs=1"), "for one of logits, boxes, features"),
        (("--teacher", str(SAMPLE), "--distil-weight", "boxes"), "expected NAME=X"),
        (("--teacher", str(SAMPLE), "--distil-weight", "boxes=-1"), "expected a finite number from 0"),
        (("--teacher", str(SAMPLE), "--distil-temperature", "0"), "expected a finite number above 0"),
        (("--teacher", str(SAMPLE), "--distil-weight", "boxes=0", "--distil-weight", "logits=0"), "every weight is 0"),
    ],
)
def test_wrong_teacher_is_told_and_leaves_nothing(
    train: Train, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], told: str
) -> None:
    if "OTHER" in more:
        content = torch.load(teacher, weights_only=False)
        content["model"].names = dict(enumerate(("ant", "bee", "cow", "dog", "eel")))
        torch.save(content, tmp_path / "other.pt")
        more = ("--teacher", str(tmp_path / "other.pt"))
    assert train(tmp_path / "run", *more) in (1, 2)
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
