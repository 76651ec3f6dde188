"""The images and labels of a training, read by the builder's strict reader, and what they are told apart by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import DataError

if TYPE_CHECKING:
    from builder.dataset import DataSplit


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainData:
    """A data set with its splits train and val."""

    source: Path
    names: tuple[str, ...]
    train: tuple[Path, ...]
    """Sorted paths of images."""
    val: tuple[Path, ...]
    hash: str
    """Of names, labels and images' sizes; not of places and times, so that a copy elsewhere is the same."""

    def to_json(self) -> dict[str, Any]:
        """What run.json says of it."""
        return {"hash": self.hash, "names": list(self.names), "train": len(self.train), "val": len(self.val)}


def plain_name(name: str) -> str:
    """A class's name as it is compared with another's."""
    return name.strip().lower()


def read_training_data(source: Path) -> TrainData:
    """Both splits of a data.yaml, every label checked.

    Raises:
        DataError: see ``builder.dataset.read_split``; or no training image has an object.
    """
    from builder.dataset import read_split

    train, val = read_split(source, "train"), read_split(source, "val")
    if not any(image.classes_N is not None and len(image.classes_N) for image in train.images):
        raise DataError(
            f"{source}: none of the {len(train.images)} training images has a label; expected label files in a folder "
            "'labels' where the images lie in 'images'."
        )
    digest = hashlib.sha256(json.dumps(train.names).encode())
    for split in (train, val):
        _digest(split, digest)
    return TrainData(
        source=source,
        names=train.names,
        train=tuple(image.path for image in train.images),
        val=tuple(image.path for image in val.images),
        hash=digest.hexdigest(),
    )


def _digest(split: DataSplit, digest: Any) -> None:
    for image in split.images:
        digest.update(f"\n{split.split} {image.path.name} {image.path.stat().st_size}".encode())
        digest.update(b"-" if image.classes_N is None else image.classes_N.tobytes())
        digest.update(image.boxes_N4.tobytes())
