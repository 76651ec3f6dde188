"""What a ScheduledDetector is put together from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from clients.detections import Detections
from clients.images import ImageSource
from clients.pace import Pace
from clients.selection import EVERYTHING, Selection
from clients.session import DEFAULT_CONFIDENCE
from clients.wire.transport import Cancellation


class DetectorLike(Protocol):
    """What is needed of a detector; clients.Detector is one. It must be safe to share between threads."""

    @property
    def names(self) -> tuple[str, ...]:
        """The class names in the order of their numbers."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's input in pixels."""

    @property
    def max_batch_size(self) -> int:
        """The most images that go into one request."""

    def detect(
        self,
        image: ImageSource,
        confidence: float = DEFAULT_CONFIDENCE,
        *,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> Detections:
        """Find objects in one image."""

    def detect_batch(
        self,
        images: Iterable[ImageSource],
        confidence: float = DEFAULT_CONFIDENCE,
        *,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> list[Detections]:
        """Find objects in several images."""

    def pace(self, in_flight: int | None = None) -> Pace:
        """How many requests at a time."""

    def detect_one_of_many(
        self,
        image: ImageSource,
        index: int,
        cancellation: Cancellation,
        *,
        pace: Pace,
        confidence: float,
        priority: int,
        selection: Selection,
    ) -> Detections:
        """Find objects in one image of many that are under way."""

    def close(self) -> None:
        """Close the connection."""


class ModelLoader(Protocol):
    """What loads and unloads models on the server; clients.models.control.ModelControl is one."""

    def load(self, model: str) -> None:
        """Load a model; return when it is ready."""

    def unload(self, model: str) -> None:
        """Unload a model; it need not be gone when this returns."""

    def close(self) -> None:
        """Close the connection."""
