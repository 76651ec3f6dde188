"""Pictures with what was found drawn into them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clients.detections import Detections
from clients.images import ImageSource, read_pixels

MIN_TEXT_SCALE = 0.4
"""OpenCV's letters are hard to read below it."""


def draw(image: ImageSource, detections: Detections) -> NDArray[np.uint8]:
    """A copy of an image with a box and a label, "person 0.87", for each detection; BGR uint8 [H, W, 3].

    ``image`` is what ``Detector.detect`` takes; lines and letters grow with it. Labels are moved into the picture and
    off one another.
    """
    import supervision

    picture_BGR = read_pixels(image).bgr().copy()
    if not len(detections):
        return picture_BGR
    size_wh = (picture_BGR.shape[1], picture_BGR.shape[0])
    thickness = supervision.calculate_optimal_line_thickness(resolution_wh=size_wh)
    boxes = supervision.BoxAnnotator(thickness=thickness)
    labels = supervision.LabelAnnotator(
        text_scale=max(MIN_TEXT_SCALE, 0.7 * supervision.calculate_optimal_text_scale(resolution_wh=size_wh)),
        text_thickness=max(1, thickness // 2),
        text_padding=2 * thickness,
        smart_position=True,
    )
    # The last one drawn lies on top.
    upwards = Detections(
        detections.xyxy[::-1], detections.confidence[::-1], detections.class_id[::-1], detections.names
    )
    found = upwards.to_supervision()
    texts = [f"{detection.name} {detection.confidence:.2f}" for detection in upwards]
    annotated: NDArray[np.uint8] = labels.annotate(boxes.annotate(picture_BGR, found), found, labels=texts)
    return annotated
