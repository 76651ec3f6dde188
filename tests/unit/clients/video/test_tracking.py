"""Objects keep their numbers while they move."""

from __future__ import annotations

import numpy as np
import pytest

from clients.detections import Detections
from clients.video.tracking import ByteTracker

pytest.importorskip("trackers", reason="--track needs: pip install trackers (it asks for numpy 2)")


def detections(*boxes: tuple[float, float]) -> Detections:
    """Squares of 40 pixels at these corners, most confident first."""
    xyxy = np.array([[x, y, x + 40, y + 40] for x, y in boxes], np.float32).reshape(-1, 4)
    confidence = np.linspace(0.95, 0.75, len(boxes), dtype=np.float32)
    return Detections(xyxy, confidence, np.zeros(len(boxes), np.int64), ("thing",))


def test_an_object_keeps_its_number_and_its_place_in_the_list() -> None:
    tracker = ByteTracker(10)
    for step in range(10):
        # The order changes, as that of confidences does.
        boxes = [(10.0 + 4 * step, 10.0), (300.0, 200.0 - 4 * step)]
        numbers = tracker.update(detections(*boxes[:: 1 if step % 2 else -1]), step / 10)
        if step == 5:
            expected = numbers
        if step > 5:
            assert numbers == (expected if step % 2 else expected[::-1])
    assert sorted(number for number in expected if number) == [1, 2]


def test_what_is_seen_for_the_first_time_has_no_number_yet() -> None:
    tracker = ByteTracker(10)
    assert tracker.update(detections(), 0.0) == ()
    assert tracker.update(detections((10, 10)), 0.1) == (None,)
    assert tracker.update(detections((11, 10)), 0.2) == (1,)
    assert tracker.update(detections(), 0.3) == ()


def test_a_new_object_never_takes_an_old_number() -> None:
    tracker = ByteTracker(10)
    for step in range(5):
        tracker.update(detections((10, 10)), step / 10)
    for step in range(100):
        tracker.update(detections(), 0.5 + step / 10)
    for step in range(5):
        numbers = tracker.update(detections((400, 400)), 11 + step / 10)
    assert numbers == (2,)
