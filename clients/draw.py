"""Pictures with what was found drawn into them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clients.detections import Detections
from clients.images import ImageSource, read_pixels


def draw(image: ImageSource, detections: Detections) -> NDArray[np.uint8]:
    """A copy of an image with a box and a label, "person 0.87", for each detection; BGR uint8 [H, W, 3].

    ``image`` is what ``Detector.detect`` takes; lines and letters grow with it.
    """
    import supervision

    picture_BGR = read_pixels(image).bgr().copy()
    if not len(detections):
        return picture_BGR
    size_wh = (picture_BGR.shape[1], picture_BGR.shape[0])
    thickness = supervision.calculate_optimal_line_thickness(resolution_wh=size_wh)
    text_scale = supervision.calculate_optimal_text_scale(resolution_wh=size_wh)
    found = detections.to_supervision()
    picture_BGR = supervision.BoxAnnotator(thickness=thickness).annotate(picture_BGR, found)
    labels = [f"{detection.name} {detection.confidence:.2f}" for detection in detections]
    annotator = supervision.LabelAnnotator(text_scale=text_scale, text_thickness=thickness, text_padding=2 * thickness)
    annotated: NDArray[np.uint8] = annotator.annotate(picture_BGR, found, labels=labels)
    return annotated
