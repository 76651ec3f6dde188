"""Three short trainings one after the other, in a process that may be one of two: the heads there are.

python -m tests.equal_trainings FOLDER DATA PORT...     a port per training; torchrun's environment says who this is
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.trainings import NETWORK, ROOT
from trainer.run import train
from trainer.settings import TrainSettings

END_TO_END: Mapping[str, str] = {
    "yolov10": NETWORK.replace("Detect,", "v10Detect,"),
    "yolo26": f"end2end: True\nreg_max: 1\n{NETWORK}",
}
"""The heads of YOLOv10 and YOLO26, which learn two assignments at once, on the small network."""
TRAININGS = ("trained", *END_TO_END)
"""``trained`` goes on from the sample's weights, the others from random ones."""


def main(folder: Path, data: Path, ports: list[str]) -> None:
    """Train each in a folder of its own."""
    for name, port in zip(TRAININGS, ports, strict=True):
        os.environ["MASTER_PORT"] = port
        description = folder.parent / f"{name}.yaml"
        settings = TrainSettings(
            data=data,
            run=folder / name,
            weights=ROOT / "examples/shapes/shapes.pt" if name == "trained" else None,
            model=str(description) if name in END_TO_END else None,
            epochs=4 if name == "trained" else 2,
            batch=4,
            imgsz=64,
            optimizer="SGD",
            threads=1,
            workers_per_device=0,
            validate_every=4,
            hyperparameters={"nbs": 8},
        )
        train(settings, say=print)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
