"""What labelled images are told apart by."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.dataset import DataSplit


def labels_sha256(data: DataSplit) -> str:
    """A hash of the class names, the images' names and what is labelled on them."""
    digest = hashlib.sha256(json.dumps(data.names).encode())
    for image in data.images:
        digest.update(f"\n{image.path.name}".encode())
        digest.update(b"" if image.classes_N is None else image.classes_N.tobytes() + image.boxes_N4.tobytes())
    return digest.hexdigest()


def split_identity(data: DataSplit) -> str:
    """A hash of the labels, and of each image's name, size and time: reading all images would take minutes."""
    digest = hashlib.sha256(json.dumps([data.split, data.names]).encode())
    for image in data.images:
        status = image.path.stat()
        digest.update(f"\n{image.path.name} {status.st_size} {status.st_mtime_ns}".encode())
        digest.update(b"-" if image.classes_N is None else image.classes_N.tobytes())
        digest.update(image.boxes_N4.tobytes())
    return digest.hexdigest()
