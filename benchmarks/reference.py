"""The weights that the figures in ``reports/`` are of: a YOLO11n whose network takes the time of a trained one.

It is untrained and finds nothing: suppression in the graph takes its fixed number of steps all the same, while a client
that suppresses has nothing to do.
"""

from __future__ import annotations

from pathlib import Path

from builder.errors import SpecError

SEED = 0
NAME = "yolo11n-untrained.pt"


def write_reference(folder: Path) -> Path:
    """Write ``yolo11n-untrained.pt`` into the folder, which is made where it is missing; the same weights every time.

    Raises:
        SpecError: the folder cannot be written.
    """
    import torch
    from ultralytics.models import YOLO

    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(SEED)
        YOLO("yolo11n.yaml").save(path)
    except (OSError, RuntimeError) as error:
        # torch reports a file that it cannot open as a RuntimeError.
        raise SpecError(f"--out {folder}: {path.name} cannot be written: {error}") from error
    return path
