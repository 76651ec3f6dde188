"""Train the sample's detector from random weights on two CPU cores.

python examples/shapes/train.py --out runs/shapes

Two phases: most of the epochs on 320-pixel tiles, which cost a quarter of a 640-pixel image and hold objects of the
same sizes in pixels, then a short one on 640-pixel images, the size at which the detector is served and validated.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generate import RequestError, Size, positive, write_dataset

HERE = Path(__file__).resolve().parent

COMMON: dict[str, Any] = {
    "device": "cpu",
    "seed": 0,
    "deterministic": True,
    "amp": False,
    "optimizer": "AdamW",
    "momentum": 0.9,
    "cos_lr": True,
    "val": False,
    "plots": False,
    # The generator draws every size, place, overlap and colour; a mosaic or a warp would add blurred copies of them.
    "mosaic": 0.0,
    "translate": 0.0,
    "scale": 0.0,
    "erasing": 0.0,
    "hsv_h": 0.05,
    "hsv_s": 0.3,
    "hsv_v": 0.2,
    "fliplr": 0.5,
    "flipud": 0.5,
}
# nbs equal to batch: the default gathers gradients of 64 images for a step, too few steps for so short a training.
TILES: dict[str, Any] = {
    "imgsz": 320, "batch": 16, "nbs": 16, "lr0": 0.002, "lrf": 0.1, "warmup_epochs": 0.5, "warmup_bias_lr": 0.0,
}  # fmt: skip
IMAGES: dict[str, Any] = {
    "imgsz": 640, "batch": 8, "nbs": 8, "lr0": 0.0006, "lrf": 0.02, "warmup_epochs": 0.2, "warmup_bias_lr": 0.0,
}  # fmt: skip


def use_the_cpu(trainer: Any) -> None:
    """Take every core, and the memory layout in which CPU convolutions of few channels train fastest."""
    import torch

    # Ultralytics leaves one core for its data loaders, of which it starts none on a CPU.
    torch.set_num_threads(os.cpu_count() or 1)
    trainer.model = trainer.model.to(memory_format=torch.channels_last)


def train_phase(model: str | Path, data: Path, out: Path, name: str, **settings: Any) -> Path:
    """Train one phase; return its stripped checkpoint."""
    from ultralytics import YOLO

    detector = YOLO(model, task="detect")
    detector.add_callback("on_pretrain_routine_end", use_the_cpu)
    detector.train(data=data / "data.yaml", project=out, name=name, exist_ok=True, **COMMON, **settings)
    return Path(detector.trainer.last)


def write_checkpoint(trained: Path, target: Path) -> None:
    """Copy a stripped checkpoint without what it says of the machine and the hour it was trained on."""
    import torch

    checkpoint = torch.load(trained, map_location="cpu", weights_only=False)
    for field in ("date", "git", "train_results"):
        checkpoint[field] = None
    model = checkpoint["model"]
    for arguments in (checkpoint["train_args"], model.args):
        for key, value in arguments.items():
            # Only the last part of a path means anything elsewhere.
            if isinstance(value, (str, Path)) and re.search(r"[/\\]", str(value)):
                arguments[key] = Path(value).name
    model.yaml["yaml_file"] = Path(model.yaml["yaml_file"]).name
    model.pt_path = target.name
    # torch.save to a path would write the file's own name into the archive.
    archive = io.BytesIO()
    torch.save(checkpoint, archive)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_bytes(archive.getvalue())
    partial.replace(target)


def main() -> int:
    """Generate, train both phases and write ``shapes.pt``; 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(prog="train.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="data, runs and shapes.pt go here")
    parser.add_argument("--tiles", type=positive, default=4000, help="320-pixel training tiles (%(default)s)")
    parser.add_argument("--tile-epochs", type=positive, default=7, help="epochs on them (%(default)s)")
    parser.add_argument("--images", type=positive, default=640, help="640-pixel training images (%(default)s)")
    parser.add_argument("--image-epochs", type=positive, default=3, help="epochs on them (%(default)s)")
    request = parser.parse_args()
    out = request.out.absolute()
    try:
        write_dataset(out / "tiles", {"train": request.tiles, "val": 32}, 0, Size(320, 320))
        write_dataset(out / "images", {"train": request.images, "val": 200}, 0, Size(640, 640))
    except (RequestError, OSError) as error:
        parser.exit(2, f"train.py: {error}\n")
    tiles = train_phase(
        HERE / "yolo11-narrow.yaml", out / "tiles", out, "phase-tiles", epochs=request.tile_epochs, **TILES
    )
    images = train_phase(tiles, out / "images", out, "phase-images", epochs=request.image_epochs, **IMAGES)
    write_checkpoint(images, out / "shapes.pt")
    print(f"{out / 'shapes.pt'}: {(out / 'shapes.pt').stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
