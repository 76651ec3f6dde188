"""``python -m trainer restore``: a run's newest checkpoint from a store to this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "bring a run back from the store that its checkpoints were copied to"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add("--from", dest="address", required=True, metavar="ADDRESS", help="the --store of the training: s3://bucket/dir")
    add("--run", required=True, metavar="NAME", help="the run's name: the last part of its folder")
    add("--to", type=Path, required=True, metavar="DIR", help="the run's folder here; a newer checkpoint in it stays")
    add("--key-file", type=Path, metavar="FILE", help="of a sealed run (default: TRAINER_STORE_KEY of the environment)")


def run(arguments: argparse.Namespace) -> int:
    """Restore; 0 when the folder holds the newest checkpoint of the store that verifies."""
    from trainer.checkpoints.remote import Remote
    from trainer.checkpoints.restore import restore
    from trainer.checkpoints.sealing import read_key

    folder: Path = arguments.to
    restored = restore(
        Remote(arguments.address, arguments.run),
        folder / "checkpoints",
        key=read_key(arguments.key_file),
        say=lambda line: print(line, flush=True),
    )
    if restored is not None:
        meta = restored.meta
        print(f"{restored.path}: {meta.step} steps done, goes on in epoch {meta.epoch + 1}")
        if restored.best is not None:
            print(f"{restored.best}: the best so far")
    if folder.resolve().name != arguments.run:
        print(f"in stores the run goes on as {folder.resolve().name!r}: the name is its folder's")
    print(f"go on: python -m trainer train --run {folder} --resume")
    return 0
