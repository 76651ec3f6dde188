"""The images on which two graphs disagree most, drawn side by side for a page.

Legend: N boxes, H height, W width; 6 = x1 y1 x2 y2 confidence class.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builder.accuracy import AccuracyReport
from builder.comparison import SAME_BOX_IOU, Comparison, Disagreement
from builder.matching import match
from builder.page import escaped, figure
from clients.detections import Detections
from clients.draw import draw
from clients.errors import ImageError
from clients.images import read_pixels

PICTURES = 6
SIDE_PX = 640
JPEG_BYTES = 32_000
"""A picture is compressed until it fits, so that twelve of them take half a megabyte of the page."""
_QUALITIES = (80, 70, 60, 50, 40, 30)
_TOLD = 6


def pictures(reference: AccuracyReport, candidate: AccuracyReport, comparison: Comparison) -> str:
    """A section of HTML; images are named by their place in the data set, so that it holds no path of this machine."""
    worst = [each for each in comparison.disagreements[:PICTURES] if each.score > 0]
    if not worst:
        return "<h2>Where the two disagree</h2><p>On no image.</p>"
    pairs = "".join(_pair(each, reference, candidate) for each in worst)
    return (
        "<h2>Where the two disagree most</h2><p>Boxes of the operating threshold and above. Behind a name: the sum of "
        f"the confidences by which they differ there, and the greatest differences, reference → candidate.</p>{pairs}"
    )


def place(path: Path, source: Path) -> str:
    """An image's path from the folder of its data.yaml; its name alone where it lies elsewhere."""
    folder = source.absolute().parent
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _pair(disagreement: Disagreement, reference: AccuracyReport, candidate: AccuracyReport) -> str:
    sides = {
        name: _shown(report.detections[disagreement.index].rows_N6)
        for name, report in (("reference", reference), ("candidate", candidate))
    }
    names, confidence = reference.data.names, np.float32(reference.confidence)
    told = "; ".join(_differences(sides["reference"], sides["candidate"], names, confidence))
    name = escaped(place(disagreement.path, reference.data.source))
    caption = f"<figcaption><b>{name}</b> {figure(disagreement.score, 2)}: {escaped(told)}</figcaption>"
    try:
        picture_BGR = read_pixels(disagreement.path).bgr()
    except ImageError:
        # It could be read when it was evaluated; the figures stand, and so does the page.
        return f'<figure class="pair">{caption}<p>The image can no longer be read.</p></figure>'
    scale = min(1.0, SIDE_PX / max(picture_BGR.shape[:2]))
    small_BGR = _resized(picture_BGR, scale)
    parts = []
    for side, rows_N6 in sides.items():
        used_N6 = rows_N6[rows_N6[:, 4] >= confidence]
        found = Detections(
            np.ascontiguousarray(used_N6[:, :4] * np.float32(scale)),
            np.ascontiguousarray(used_N6[:, 4]),
            used_N6[:, 5].astype(np.int64),
            names,
        )
        source = base64.b64encode(_jpeg(draw(small_BGR, found))).decode()
        boxes = f"{side}: {len(found)} box{'' if len(found) == 1 else 'es'}"
        parts.append(f'<div><img alt="{boxes}" src="data:image/jpeg;base64,{source}"><p>{boxes}</p></div>')
    return f'<figure class="pair">{caption}<div class="sides">{"".join(parts)}</div></figure>'


def _shown(rows_N6: NDArray[np.float32]) -> NDArray[np.float32]:
    """The most confident first; rows with a value that is no number cannot be drawn."""
    finite_N6 = rows_N6[np.isfinite(rows_N6).all(1)]
    ordered_N6: NDArray[np.float32] = finite_N6[np.argsort(-finite_N6[:, 4], kind="stable")]
    return ordered_N6


def _differences(
    ours_N6: NDArray[np.float32], theirs_N6: NDArray[np.float32], names: Sequence[str], confidence: np.float32
) -> list[str]:
    """What ``Disagreement.score`` is the sum of, the greatest first; a dash where a graph does not have the box."""
    ours_N6 = ours_N6[ours_N6[:, 4] >= confidence]
    (ours_N4, ours_N), (theirs_N4, theirs_N) = (
        (rows_N6[:, :4].astype(np.float64), rows_N6[:, 5].astype(np.int64)) for rows_N6 in (ours_N6, theirs_N6)
    )
    a_P, b_P = match(ours_N4, ours_N, theirs_N4, theirs_N, SAME_BOX_IOU).T
    gained_N6 = np.delete(theirs_N6, b_P, axis=0)
    changes: list[tuple[NDArray[np.float32], float | None, float | None]] = [
        *((ours_N6[a], float(ours_N6[a, 4]), float(theirs_N6[b, 4])) for a, b in zip(a_P, b_P, strict=True)),
        *((box_6, float(box_6[4]), None) for box_6 in np.delete(ours_N6, a_P, axis=0)),
        *((box_6, None, float(box_6[4])) for box_6 in gained_N6[gained_N6[:, 4] >= confidence]),
    ]
    changes.sort(key=lambda change: -abs((change[1] or 0.0) - (change[2] or 0.0)))
    return [
        f"{names[int(box_6[5])]} {figure(before, 2)} → {figure(after, 2)}" for box_6, before, after in changes[:_TOLD]
    ]


def _resized(picture_BGR: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    import cv2

    height, width = (max(1, round(side * scale)) for side in picture_BGR.shape[:2])
    return np.asarray(cv2.resize(picture_BGR, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _jpeg(picture_BGR: NDArray[np.uint8]) -> bytes:
    """The picture in JPEG_BYTES where one of the qualities reaches that, else at the last of them."""
    import cv2

    encoded = b""
    for quality in _QUALITIES:
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
        done, buffer = cv2.imencode(".jpg", picture_BGR, options)
        assert done, "OpenCV encodes any BGR uint8 picture of this size"
        encoded = buffer.tobytes()
        if len(encoded) <= JPEG_BYTES:
            break
    return encoded
