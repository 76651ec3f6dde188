"""How well what was found agrees with the labels: mAP by COCO's rules, and precision and recall at one threshold.

Legend: N rows of an image, R recall points, 4 = x1 y1 x2 y2, 6 = x1 y1 x2 y2 confidence class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from builder.coco import RECALLS_R, SIZES, PrecisionTable, ScoredImage, precision_table, sizes_of
from builder.dataset import DataImage, DataSplit, label_path
from builder.errors import DataError, SpecError
from builder.matching import match

LEAST_CONFIDENCE = 0.001
"""What is less confident counts for nothing, as in Ultralytics' validator."""
OPERATING_IOU = 0.5
"""What a box must share with an object of its class to have found it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageDetections:
    """What was found on one image."""

    path: Path
    image_hw: tuple[int, int]
    """The image's own height and width in pixels."""
    rows_N6: NDArray[np.float32]
    """Boxes in the image's own pixels, down to LEAST_CONFIDENCE."""
    problem: str = ""
    """Why the image cannot be read; then there is nothing else here."""


Detect: TypeAlias = Callable[[Sequence[Path]], Iterator[ImageDetections]]
"""From images to what is on them, one by one in their order; see ``builder.detectors``."""
Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of images done and of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What was right and wrong at the operating threshold."""

    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP): the part of the boxes that is right; None without a box."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN): the part of the objects that is found; None without an object."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN)."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """The accuracy over one group of objects: all, those of a size, or those of a class."""

    name: str
    objects: int
    map50_95: float | None
    """Mean of the average precision at IoU 0.5, 0.55 ... 0.95; None without an object."""
    map50: float | None
    counts: Counts | None
    """None for a size: a wrong box has no object whose size it could count by."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; what cannot be told is null."""
        values = {"name": self.name, "objects": self.objects, "map50_95": self.map50_95, "map50": self.map50}
        if self.counts is None:
            return values
        counts = {name: getattr(self.counts, name) for name in Counts.__slots__}
        return values | {name: getattr(self.counts, name) for name in ("precision", "recall", "f1")} | counts


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AccuracyReport:
    """The accuracy on one split, and the detections that it was measured on."""

    data: DataSplit
    confidence: float
    """The operating threshold of ``Counts``."""
    overall: Figures
    sizes: tuple[Figures, ...]
    """In the order of SIZES."""
    classes: tuple[Figures, ...]
    """In the order of the data's names."""
    curves: dict[str, NDArray[np.float64]] = field(repr=False)
    """Class name -> precision at each of ``coco.RECALLS_R`` at IoU 0.5; classes without an object are not here."""
    detections: tuple[ImageDetections, ...] = field(repr=False)
    """One for each image of the data, in their order."""

    @property
    def unreadable(self) -> tuple[ImageDetections, ...]:
        """The images that cannot be read; they and their objects count for nothing."""
        return tuple(each for each in self.detections if each.problem)

    @property
    def images(self) -> int:
        """How many images were evaluated."""
        return len(self.detections) - len(self.unreadable)

    @property
    def map50_95(self) -> float:
        """mAP50-95 over all classes that have objects."""
        assert self.overall.map50_95 is not None, "data without an object is refused"
        return self.overall.map50_95

    @property
    def map50(self) -> float:
        """mAP50 over all classes that have objects."""
        assert self.overall.map50 is not None, "data without an object is refused"
        return self.overall.map50

    def to_json(self) -> dict[str, Any]:
        """Plain values: the figures and curves, not the detections; images by their place beside the data.yaml."""
        return {
            "data": self.data.source.name,
            "split": self.data.split,
            "images": self.images,
            "unreadable": [_place(each.path, self.data) for each in self.unreadable],
            "operating_point": {"confidence": self.confidence, "iou": OPERATING_IOU},
            "overall": self.overall.to_json(),
            "sizes": [each.to_json() for each in self.sizes],
            "classes": [each.to_json() for each in self.classes],
            "curves": {
                "iou": 0.5,
                "recall": RECALLS_R.round(2).tolist(),
                "precision": {name: curve.round(6).tolist() for name, curve in self.curves.items()},
            },
        }


def evaluate(
    data: DataSplit, detect: Detect, confidence: float = 0.25, progress: Progress = lambda done, total: None
) -> AccuracyReport:
    """Run ``detect`` over the images of ``data`` and measure what it finds; ``confidence`` is the operating threshold.

    Raises:
        SpecError: ``confidence`` is out of range.
        DataError: no image can be read, or there is no object on any of them.
    """
    if not LEAST_CONFIDENCE <= confidence < 1:
        raise SpecError(f"expected a confidence from {LEAST_CONFIDENCE} to below 1, got {confidence}.")
    check_labelled(data)
    detections = []
    for found in detect([image.path for image in data.images]):
        detections.append(found)
        progress(len(detections), len(data.images))
    return measure(data, detections, confidence)


def check_labelled(data: DataSplit) -> None:
    """Pass where an object is labelled on any image.

    Raises:
        DataError: none is.
    """
    if not sum(len(image.boxes_N4) for image in data.images):
        first = label_path(data.images[0].path) if data.split else "a data.yaml: a bare folder has no labels"
        raise DataError(
            f"{data.source}: no object is labelled on its {len(data.images)} images; expected lines in {first}."
        )


def measure(data: DataSplit, detections: Sequence[ImageDetections], confidence: float = 0.25) -> AccuracyReport:
    """The accuracy of ``detections``, one for each image of ``data``.

    Raises:
        DataError: no image could be read, or there is no object on those that could.
    """
    images = [_scored(image, found) for image, found in zip(data.images, detections, strict=True) if not found.problem]
    if not images:
        raise DataError(f"{data.source}: none of its {len(data.images)} images can be read; {detections[0].problem}")
    classes_N = np.concatenate([image.classes_N for image in images])
    if not len(classes_N):
        raise DataError(f"{data.source}: no object is labelled on the {len(images)} images that can be read.")
    sizes_N = sizes_of(np.concatenate([image.boxes_N4 for image in images]))
    table, counts = precision_table(images, len(data.names)), _counts(images, len(data.names), confidence)
    curves = ((name, table.curve(class_id)) for class_id, name in enumerate(data.names))
    return AccuracyReport(
        data=data,
        confidence=confidence,
        overall=_figures("all", len(classes_N), table, counts=_sum(counts)),
        sizes=tuple(
            _figures(size, int((sizes_N == index).sum()), table, size=size) for index, size in enumerate(SIZES)
        ),
        classes=tuple(
            _figures(name, int((classes_N == c).sum()), table, class_id=c, counts=counts[c])
            for c, name in enumerate(data.names)
        ),
        curves={name: curve for name, curve in curves if curve is not None},
        detections=tuple(detections),
    )


def _scored(image: DataImage, found: ImageDetections) -> ScoredImage:
    assert image.classes_N is not None, "data without labels is refused"
    rows_N6 = found.rows_N6[found.rows_N6[:, 4] >= np.float32(LEAST_CONFIDENCE)]
    height, width = found.image_hw
    return ScoredImage(
        image_hw=found.image_hw,
        classes_N=image.classes_N,
        boxes_N4=image.boxes_N4 * (width, height, width, height),
        rows_D6=rows_N6[np.argsort(-rows_N6[:, 4], kind="stable")],
    )


def _counts(images: Sequence[ScoredImage], classes: int, confidence: float) -> list[Counts]:
    """What each class got right and wrong."""
    right, shown, there = (np.zeros(classes, np.int64) for _ in range(3))
    for image in images:
        rows_N6 = image.rows_D6[image.rows_D6[:, 4] >= np.float32(confidence)]
        ids_N = rows_N6[:, 5].astype(np.int64)
        pairs = match(rows_N6[:, :4].astype(np.float64), ids_N, image.boxes_N4, image.classes_N, OPERATING_IOU)
        right += np.bincount(ids_N[pairs[:, 0]], minlength=classes)
        shown += np.bincount(ids_N, minlength=classes)
        there += np.bincount(image.classes_N, minlength=classes)
    return [
        Counts(true_positives=int(tp), false_positives=int(boxes - tp), false_negatives=int(objects - tp))
        for tp, boxes, objects in zip(right, shown, there, strict=True)
    ]


def _sum(counts: Sequence[Counts]) -> Counts:
    return Counts(**{name: sum(getattr(each, name) for each in counts) for name in Counts.__slots__})


def _figures(
    name: str,
    objects: int,
    table: PrecisionTable,
    *,
    class_id: int | None = None,
    size: str | None = None,
    counts: Counts | None = None,
) -> Figures:
    return Figures(
        name=name,
        objects=objects,
        map50_95=table.average(class_id=class_id, size=size),
        map50=table.average(class_id=class_id, size=size, iou50=True),
        counts=counts,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _place(path: Path, data: DataSplit) -> str:
    folder = data.source.absolute().parent
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else path.name
