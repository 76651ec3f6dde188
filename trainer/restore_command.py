"""``python -m trainer restore``: a run's newest checkpoint from a store to this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.errors import CheckpointError, SealError

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
    from trainer.checkpoints.finished import bring_back_finished
    from trainer.checkpoints.remote import Remote
    from trainer.checkpoints.restore import restore
    from trainer.checkpoints.sealing import read_key

    folder: Path = arguments.to
    remote, key = Remote(arguments.address, arguments.run), read_key(arguments.key_file)
    restored = restore(remote, folder / "checkpoints", key=key, say=_say)
    if restored is not None:
        meta = restored.meta
        print(f"{restored.path}: {meta.step} steps done, {meta.epoch} whole epochs")
        if restored.best is not None:
            print(f"{restored.best}: the best so far")
    if folder.resolve().name != arguments.run:
        print(f"in stores the run goes on as {folder.resolve().name!r}: the name is its folder's")
    try:
        written = bring_back_finished(remote, folder, key=key, say=_say)
    except SealError:
        raise
    except (CheckpointError, OSError) as e:
        # The checkpoints make them again.
        print(f"warning: run.json and the weights were not brought back: {e}")
        written = []
    if written:
        print(f"the run is finished: {', '.join(str(path.relative_to(folder)) for path in written)}")
        return 0
    print(f"go on: python -m trainer train --run {folder} --resume")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)
