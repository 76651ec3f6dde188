"""What is asked of a detector whose model changes: each call goes to the model that is in use when it begins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager

from clients.detections import Detections
from clients.images import ImageSource
from clients.many import Results
from clients.models.parts import DetectorLike
from clients.selection import EVERYTHING, Selection
from clients.session import DEFAULT_CONFIDENCE
from clients.wire.transport import Cancellation


class ScheduledCalls(ABC):
    """The calls; who decides which model is in use is a subclass."""

    @property
    def names(self) -> tuple[str, ...]:
        """The class names of the model in use, in the order of their numbers."""
        return self._used.names

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input of the model in use."""
        return self._used.size

    @property
    def max_batch_size(self) -> int:
        """The most images that go into one request of the model in use."""
        return self._used.max_batch_size

    def detect(
        self,
        image: ImageSource,
        confidence: float = DEFAULT_CONFIDENCE,
        *,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> Detections:
        """Find objects of at least ``confidence`` in one image with the model in use; as Detector.detect.

        Raises ValueError for a selection of classes that the model in use does not have.
        """
        with self._in_use() as detector:
            return detector.detect(image, confidence, priority=priority, selection=selection)

    def detect_batch(
        self,
        images: Iterable[ImageSource],
        confidence: float = DEFAULT_CONFIDENCE,
        *,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> list[Detections]:
        """Find objects in several images, all with the model in use when it is called; as Detector.detect_batch."""
        with self._in_use() as detector:
            return detector.detect_batch(images, confidence, priority=priority, selection=selection)

    def detect_many(
        self,
        images: Iterable[ImageSource],
        confidence: float = DEFAULT_CONFIDENCE,
        *,
        in_flight: int | None = None,
        priority: int = 0,
        selection: Selection = EVERYTHING,
    ) -> Results[ImageSource, Detections]:
        """Find objects in any number of images, each with the model in use when it is sent; as Detector.detect_many.

        ``in_flight`` is by default what suits the model that is in use now.
        """
        pace = self._used.pace(in_flight)

        def detect(image: ImageSource, index: int, cancellation: Cancellation) -> Detections:
            with self._in_use() as detector:
                return detector.detect_one_of_many(
                    image,
                    index,
                    cancellation,
                    pace=pace,
                    confidence=confidence,
                    priority=priority,
                    selection=selection,
                )

        return Results(detect, images, pace.most, pace)

    @property
    @abstractmethod
    def _used(self) -> DetectorLike:
        """The detector of the model in use."""

    @abstractmethod
    def _in_use(self) -> AbstractContextManager[DetectorLike]:
        """The same, which stays open while the block runs."""
