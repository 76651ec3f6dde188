"""What was found in one picture.

Legend: N detections, 4 = x1 y1 x2 y2, 6 = x1 y1 x2 y2 confidence class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.errors import ContractError
from clients.letterbox import Letterbox

if TYPE_CHECKING:
    import supervision

    from clients.coco import CategoryIds


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """One object."""

    xyxy: tuple[float, float, float, float]
    """Left, top, right, bottom, in the picture's own pixels."""
    confidence: float
    class_id: int
    name: str
    """The name of the class."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Objects of one picture, most confident first as the server sends them; the arrays are read-only.

    Raises ValueError when it is made of arrays of other shapes or types, of values that are not finite, or of class
    numbers without a name.
    """

    xyxy: NDArray[np.float32]
    """float32 [N, 4]: x1 y1 x2 y2 in the picture's own pixels, whose corner is (0, 0)."""
    confidence: NDArray[np.float32]
    """float32 [N], 0 to 1."""
    class_id: NDArray[np.int64]
    """int64 [N], an index into ``names``."""
    names: tuple[str, ...]
    """The names of all classes of the model."""

    def __post_init__(self) -> None:
        count = len(self.confidence)
        for field, dtype, shape in (
            ("xyxy", np.float32, (count, 4)),
            ("confidence", np.float32, (count,)),
            ("class_id", np.int64, (count,)),
        ):
            array = getattr(self, field)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(
                    f"expected {field} as {dtype.__name__} {list(shape)}, got {array.dtype} {list(array.shape)}"
                )
            # A view, so that the caller's own array stays writable.
            view = array.view()
            view.flags.writeable = False
            object.__setattr__(self, field, view)
        if not (np.isfinite(self.xyxy).all() and np.isfinite(self.confidence).all()):
            raise ValueError("expected finite boxes and confidences, got NaN or infinity")
        if count and not 0 <= self.class_id.min() <= self.class_id.max() < len(self.names):
            raise ValueError(
                f"expected class numbers from 0 to {len(self.names) - 1}, got "
                f"{self.class_id.min()} to {self.class_id.max()} with {len(self.names)} names"
            )

    @classmethod
    def from_rows(
        cls, rows_N6: NDArray[np.float32], letterbox: Letterbox, names: tuple[str, ...], confidence: float
    ) -> Detections:
        """Read one image's rows of the server's answer, keeping those of at least ``confidence``.

        ``rows_N6`` is float32 [N, 6] in input pixels; a row of confidence 0 is unused. Raises ContractError for rows
        that no detector of the contract sends.
        """
        # As float32, so that a threshold of 0.7 finds what the server calls 0.7.
        used_N6 = rows_N6[(rows_N6[:, 4] >= np.float32(confidence)) & (rows_N6[:, 4] > 0)]
        if not np.isfinite(rows_N6).all():
            raise ContractError(
                "expected finite detections, the server sent NaN or infinity: rebuild or verify the model"
            )
        try:
            return cls(
                xyxy=letterbox.boxes_to_image(used_N6[:, :4]),
                confidence=np.ascontiguousarray(used_N6[:, 4]),
                class_id=used_N6[:, 5].astype(np.int64),
                names=names,
            )
        except ValueError as error:
            raise ContractError(
                f"{error}: the model on the server has changed or is not what its names say; connect again"
            ) from error

    def __len__(self) -> int:
        return len(self.confidence)

    def __iter__(self) -> Iterator[Detection]:
        for box, confidence, class_id in zip(
            self.xyxy.tolist(), self.confidence.tolist(), self.class_id.tolist(), strict=True
        ):
            yield Detection(xyxy=tuple(box), confidence=confidence, class_id=class_id, name=self.names[class_id])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return (
            self.names == other.names
            and np.array_equal(self.xyxy, other.xyxy)
            and np.array_equal(self.confidence, other.confidence)
            and np.array_equal(self.class_id, other.class_id)
        )

    # Equality looks into arrays, so there is nothing cheap and stable to hash.
    __hash__ = None  # type: ignore[assignment]

    def filter(self, confidence: float) -> Detections:
        """Those of at least ``confidence``."""
        keep = self.confidence >= np.float32(confidence)
        return Detections(self.xyxy[keep], self.confidence[keep], self.class_id[keep], self.names)

    def to_list(self) -> list[dict[str, Any]]:
        """One dictionary per detection, ready for JSON: class, class_id, confidence, xyxy.

        Numbers are the shortest decimals that give the same float32 back: 0.87, not 0.8700000047683716.
        """
        return [
            {
                "class": self.names[class_id],
                "class_id": class_id,
                "confidence": shortest(confidence),
                "xyxy": [shortest(side) for side in box],
            }
            for box, confidence, class_id in zip(self.xyxy, self.confidence, self.class_id.tolist(), strict=True)
        ]

    def to_coco(self, image_id: int, category_ids: CategoryIds | None = None) -> list[dict[str, Any]]:
        """One COCO result per detection, ready for JSON: image_id, category_id, bbox as x y width height, score.

        ``category_ids`` are the data set's categories by class name, or in the order of the class numbers, which stand
        for themselves without it. Raises ValueError for a class that was found and has no category.
        """
        from clients.coco import coco_results

        return coco_results(self, image_id, category_ids)

    def to_supervision(self) -> supervision.Detections:
        """The same as ``supervision.Detections``, for its annotators, trackers and zones."""
        import supervision

        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.confidence.copy(),
            class_id=self.class_id.copy(),
            data={"class_name": np.array([self.names[class_id] for class_id in self.class_id.tolist()], dtype=str)},
        )


def shortest(value: np.float32) -> float:
    """The shortest decimal that gives the same float32 back."""
    return float(str(value))
