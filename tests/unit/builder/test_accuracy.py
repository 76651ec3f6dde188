"""Figures of accuracy, against values worked out by hand and against Ultralytics' own matching."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.engine.validator import BaseValidator

from builder.accuracy import AccuracyReport, Counts, ImageDetections, evaluate, measure
from builder.comparison import compare
from builder.dataset import DataImage, DataSplit
from builder.errors import DataError, SpecError
from builder.matching import iou_matrix, match

SIDE = 200
NAMES = ("cat", "dog")

BoxOf = tuple[int, tuple[float, float, float, float]]


def split(*images: list[BoxOf]) -> DataSplit:
    """Images of SIDE pixels with objects (class, x1 y1 x2 y2 in pixels)."""
    return DataSplit(
        source=Path("/data/shapes/data.yaml"),
        split="val",
        names=NAMES,
        images=tuple(
            DataImage(
                path=Path(f"/data/shapes/images/val/{index}.jpg"),
                classes_N=np.array([class_id for class_id, _ in objects], np.int64),
                boxes_N4=np.array([box for _, box in objects], np.float64).reshape(-1, 4) / SIDE,
            )
            for index, objects in enumerate(images)
        ),
    )


def found(data: DataSplit, *rows: list[tuple[float, ...]]) -> list[ImageDetections]:
    """What was found on each image: x1 y1 x2 y2 confidence class."""
    return [
        ImageDetections(path=image.path, image_hw=(SIDE, SIDE), rows_N6=np.array(of_image, np.float32).reshape(-1, 6))
        for image, of_image in zip(data.images, rows, strict=True)
    ]


A, B, FAR = (10.0, 10.0, 60.0, 60.0), (100.0, 100.0, 160.0, 160.0), (150.0, 10.0, 190.0, 50.0)
TINY, HUGE = (0.0, 0.0, 20.0, 20.0), (30.0, 30.0, 190.0, 190.0)


def by_name(report: AccuracyReport, name: str):
    return next(each for each in (*report.sizes, *report.classes) if each.name == name)


def test_what_is_found_exactly_is_perfect():
    data = split([(0, A), (1, B)], [], [(1, TINY)])
    report = measure(data, found(data, [(*A, 0.9, 0), (*B, 0.8, 1)], [], [(*TINY, 0.7, 1)]))
    assert report.map50_95 == pytest.approx(1)
    assert report.overall.counts == Counts(true_positives=3, false_positives=0, false_negatives=0)
    assert [(each.objects, each.map50) for each in report.classes] == [(1, pytest.approx(1)), (2, pytest.approx(1))]


def test_average_precision_is_cocos_over_101_recalls():
    data = split([(0, A), (0, B)])
    report = measure(data, found(data, [(*A, 0.9, 0), (*FAR, 0.8, 0), (*B, 0.7, 0)]))
    # Precision is 1 up to recall 0.5 (51 of the 101 points), and 2/3 up to recall 1 (the other 50).
    assert report.map50 == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert report.curves["cat"].tolist() == pytest.approx([1.0] * 51 + [2 / 3] * 50)
    assert "dog" not in report.curves


def test_map_averages_over_thresholds_and_over_the_classes_that_have_objects():
    # IoU 0.8 with its object: found at 7 of the 10 thresholds.
    data = split([(0, (0.0, 0.0, 100.0, 100.0))])
    report = measure(data, found(data, [(0, 0, 100, 80, 0.9, 0), (*FAR, 0.9, 1)]))
    assert report.map50_95 == pytest.approx(0.7)
    assert by_name(report, "dog").map50_95 is None
    assert by_name(report, "dog").counts == Counts(true_positives=0, false_positives=1, false_negatives=0)


def test_sizes_are_by_the_area_in_the_images_own_pixels():
    data = split([(0, TINY), (0, A), (1, HUGE)])
    report = measure(data, found(data, [(*TINY, 0.9, 0), (*HUGE, 0.9, 1)]))
    assert [each.objects for each in report.sizes] == [1, 1, 1]
    assert [each.map50_95 for each in report.sizes] == pytest.approx([1, 0, 1])
    assert all(each.counts is None for each in report.sizes)


def test_a_second_box_on_an_object_and_a_box_of_the_wrong_class_are_wrong():
    data = split([(0, A), (1, B)])
    report = measure(data, found(data, [(*A, 0.9, 0), (11, 11, 60, 60, 0.8, 0), (*B, 0.7, 0), (*B, 0.2, 1)]))
    assert by_name(report, "cat").counts == Counts(true_positives=1, false_positives=2, false_negatives=0)
    assert by_name(report, "dog").counts == Counts(true_positives=0, false_positives=0, false_negatives=1)
    assert report.overall.counts.precision == pytest.approx(1 / 3)
    assert report.overall.counts.recall == pytest.approx(1 / 2)
    assert report.overall.counts.f1 == pytest.approx(2 / 5)


def test_a_class_with_neither_boxes_nor_objects_has_no_precision():
    assert Counts(true_positives=0, false_positives=0, false_negatives=0).precision is None
    data = split([(0, A)])
    assert measure(data, found(data, [])).overall.counts.recall == 0


def test_precision_and_recall_are_at_the_threshold_that_was_asked_for():
    data = split([(0, A), (0, B)])
    rows = found(data, [(*A, 0.9, 0), (*B, 0.25, 0)])
    assert [measure(data, rows, c).overall.counts.true_positives for c in (0.25, 0.5)] == [2, 1]


def test_what_is_hardly_confident_counts_for_nothing():
    data = split([(0, A)])
    assert measure(data, found(data, [(*A, 0.0009, 0)])).map50 == 0
    assert measure(data, found(data, [(*A, 0.001, 0)])).map50 == pytest.approx(1)


def test_an_unreadable_image_is_named_and_counts_for_nothing():
    data = split([(0, A)], [(0, B)])
    rows = found(data, [(*A, 0.9, 0)], [])
    rows[1] = ImageDetections(path=rows[1].path, image_hw=(0, 0), rows_N6=rows[1].rows_N6, problem="1.jpg: truncated")
    report = measure(data, rows)
    assert (report.images, report.overall.objects) == (1, 1)
    assert report.map50_95 == pytest.approx(1)
    assert report.to_json()["unreadable"] == ["images/val/1.jpg"]


def test_data_that_says_nothing_is_refused():
    data = split([(0, A)], [])
    with pytest.raises(SpecError, match=r"confidence from 0\.001 to below 1, got 1\.5"):
        evaluate(data, lambda paths: iter(()), 1.5)
    with pytest.raises(DataError, match=r"no object is labelled on its 1 images; expected .*labels/val/0\.txt"):
        evaluate(split([]), lambda paths: iter(()))
    rows = found(data, [(*A, 0.9, 0)], [])
    broken = [
        ImageDetections(path=r.path, image_hw=(0, 0), rows_N6=np.zeros((0, 6), np.float32), problem="torn")
        for r in rows
    ]
    with pytest.raises(DataError, match="none of its 2 images can be read; torn"):
        measure(data, broken)
    with pytest.raises(DataError, match="on the 1 images that can be read"):
        measure(data, [broken[0], rows[1]])


def test_evaluate_tells_how_far_it_is():
    data = split([(0, A)], [], [])
    rows, told = found(data, [(*A, 0.9, 0)], [], []), []
    report = evaluate(data, lambda paths: iter(rows), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert report.map50_95 == pytest.approx(1)


def test_the_report_is_json_without_places_of_this_machine():
    data = split([(0, A), (1, TINY)])
    text = json.dumps(measure(data, found(data, [(*A, 0.9, 0)])).to_json(), allow_nan=False)
    assert "/data/shapes" not in text
    content = json.loads(text)
    assert content["overall"]["map50_95"] == pytest.approx(0.5)
    assert [each["name"] for each in content["sizes"]] == ["small", "medium", "large"]
    assert content["sizes"][2]["map50_95"] is None
    assert content["classes"][0]["precision"] == 1
    assert len(content["curves"]["recall"]) == len(content["curves"]["precision"]["cat"]) == 101


boxes = st.lists(
    st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 8)] * 2, st.integers(0, 1)), min_size=1, max_size=12
)


@settings(deadline=None)
@given(boxes, boxes)
def test_matching_is_ultralytics_at_every_threshold(ours, theirs):
    def arrays(values):
        table = np.array(values, np.float64)
        return np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], 1), table[:, 4].astype(np.int64)

    (boxes_A4, classes_A), (boxes_B4, classes_B) = arrays(ours), arrays(theirs)
    validator = SimpleNamespace(iouv=torch.linspace(0.5, 0.95, 10, dtype=torch.float64))
    iou = torch.from_numpy(iou_matrix(boxes_B4, boxes_A4))
    correct = BaseValidator.match_predictions(validator, torch.from_numpy(classes_A), torch.from_numpy(classes_B), iou)
    for column, threshold in enumerate(validator.iouv.tolist()):
        pairs = match(boxes_A4, classes_A, boxes_B4, classes_B, threshold)
        assert pairs[:, 0].tolist() == np.flatnonzero(correct[:, column].numpy()).tolist()
        assert len(set(pairs[:, 1].tolist())) == len(pairs)


def test_the_drift_of_confidence_is_candidate_less_reference_over_the_same_boxes():
    data = split([(0, A), (1, B)], [(0, A)])
    reference = measure(data, found(data, [(*A, 0.9, 0), (*B, 0.8, 1)], [(*A, 0.7, 0)]))
    candidate = measure(data, found(data, [(11, 10, 60, 60, 0.5, 0), (*B, 0.9, 1)], [(*A, 0.1, 0)]))
    drift = compare(reference, candidate).drift
    assert (drift.matched, drift.lost, drift.gained, drift.fell_below) == (3, 0, 0, 1)
    assert drift.median == pytest.approx(-0.4)
    assert drift.median_absolute == pytest.approx(0.4)
    assert drift.percentile_95_absolute == pytest.approx(np.percentile([0.4, 0.1, 0.6], 95))
    assert drift.percentile_5 == pytest.approx(np.percentile([-0.4, 0.1, -0.6], 5))
    cat, dog = compare(reference, candidate).class_drifts
    assert (cat.matched, cat.median) == (2, pytest.approx(-0.5))
    assert (dog.matched, dog.median) == (1, pytest.approx(0.1))


def test_boxes_that_only_one_has_are_counted_by_class():
    data = split([(0, A), (1, B)])
    reference = measure(data, found(data, [(*A, 0.9, 0), (*FAR, 0.2, 0)]))
    candidate = measure(data, found(data, [(*B, 0.6, 1), (*FAR, 0.3, 0)]))
    comparison = compare(reference, candidate)
    assert (comparison.drift.matched, comparison.drift.lost, comparison.drift.gained) == (0, 1, 2)
    assert comparison.drift.median is None
    assert [(each.lost, each.gained) for each in comparison.class_drifts] == [(1, 1), (0, 1)]
    assert comparison.disagreements[0].score == pytest.approx(0.9 + 0.6 + 0.3)


def test_the_drop_of_map_is_by_size_and_class():
    data = split([(0, TINY), (1, HUGE)], [(0, A)])
    reference = measure(data, found(data, [(*TINY, 0.9, 0), (*HUGE, 0.9, 1)], [(*A, 0.9, 0)]))
    candidate = measure(data, found(data, [(*HUGE, 0.9, 1)], [(*A, 0.9, 0)]))
    comparison = compare(reference, candidate)
    assert [each.map50_95 for each in comparison.sizes] == pytest.approx([1, 0, 0])
    assert [each.map50 for each in comparison.classes] == pytest.approx([50 / 101, 0])
    assert comparison.overall.map50_95 == pytest.approx(25 / 101)
    assert [each.index for each in comparison.disagreements] == [0, 1]
    assert json.loads(json.dumps(comparison.to_json()))["map_drop"]["map50_95"] == comparison.overall.map50_95


def test_a_report_compared_with_itself_differs_in_nothing():
    data = split([(0, A), (1, B)], [])
    report = measure(data, found(data, [(*A, 0.9, 0), (*B, 0.3, 1)], [(*FAR, 0.4, 0)]))
    comparison = compare(report, report)
    assert (comparison.drift.matched, comparison.drift.percentile_95_absolute) == (3, 0)
    assert (comparison.drift.lost, comparison.drift.gained, comparison.drift.fell_below) == (0, 0, 0)
    assert comparison.overall.map50_95 == 0
    assert {each.score for each in comparison.disagreements} == {0}


def test_reports_of_other_images_or_thresholds_are_not_compared():
    data, other = split([(0, A)]), split([(0, A)], [(0, A)])
    report = measure(data, found(data, [(*A, 0.9, 0)]))
    for unlike in (
        measure(other, found(other, [(*A, 0.9, 0)], [])),
        measure(data, found(data, [(*A, 0.9, 0)]), confidence=0.5),
    ):
        with pytest.raises(ValueError, match="same images"):
            compare(report, unlike)
