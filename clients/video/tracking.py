"""Following objects from frame to frame by ByteTrack (Zhang et al. 2022), as Roboflow's ``trackers`` keeps it."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from clients.detections import Detections
from clients.errors import ClientError

NOMINAL_FPS = 10.0
"""Only how long a lost object is remembered depends on it: 30 frames at 30 FPS, one second, as ByteTrack does."""


class ByteTracker:
    """One source's tracker; numbers count from 1 and are not used again."""

    def __init__(self, fps: float | None = None) -> None:
        """``fps`` is the rate of the frames; raises ClientError where ``trackers`` is not installed."""
        self._tracker = _library().ByteTrackTracker(frame_rate=fps or NOMINAL_FPS)

    def update(self, detections: Detections, time_s: float) -> tuple[int | None, ...]:
        """The number of each detection's object, in their order; None for one that was seen for the first time."""
        found = detections.to_supervision()
        # The tracker returns its detections in another order.
        found.data["row"] = np.arange(len(detections))
        tracked = self._tracker.update(found, timestamp=time_s)
        numbers: list[int | None] = [None] * len(detections)
        if tracked.tracker_id is not None:
            for row, track_id in zip(tracked.data.get("row", ()), tracked.tracker_id, strict=True):
                # -1 is not followed yet.
                numbers[int(row)] = int(track_id) + 1 if track_id >= 0 else None
        return tuple(numbers)


def _library() -> Any:
    try:
        return importlib.import_module("trackers")
    except ImportError as error:
        raise ClientError("--track needs: pip install trackers") from error
