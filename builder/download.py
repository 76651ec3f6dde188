"""Weights that Ultralytics publishes, downloaded once into the user's cache folder."""

from __future__ import annotations

import unicodedata
from contextlib import ExitStack
from pathlib import Path

from builder.cache import default_root
from builder.checkpoint import SAMPLE, check_file
from builder.durable import make_folders, scratch_folder, sweep
from builder.errors import WeightsError

_UNFINISHED = "download-"


def published_weights(name: str) -> Path:
    """The published weights of that name, from the cache or downloaded by Ultralytics: whole, or not at all.

    Raises:
        WeightsError: none is published under that name, or it cannot be downloaded or kept; it names the sample.
    """
    folder = default_root() / "weights"
    weights = folder / name
    if weights.is_file():
        return weights
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    if name not in GITHUB_ASSETS_NAMES:
        raise WeightsError(
            f"no weights at {name}, and Ultralytics publishes none of that name; the sample {SAMPLE} is a detector "
            "to try with."
        )
    try:
        with ExitStack() as undo:
            make_folders(folder, undo)
            sweep(folder, _UNFINISHED)
            with scratch_folder(folder, _UNFINISHED) as scratch:
                _download(scratch / name)
                (scratch / name).replace(weights)
            undo.pop_all()
    except OSError as e:
        raise WeightsError(
            f"{name} cannot be kept in the cache {folder}: {e.strerror or e}; set XDG_CACHE_HOME to another folder, or "
            "download it yourself and give its path with --weights."
        ) from e
    return weights


def _download(path: Path) -> None:
    from ultralytics.utils.downloads import attempt_download_asset

    try:
        attempt_download_asset(path)
        check_file(path)
    except Exception as e:  # ConnectionError, OSError, or whatever the transport raises
        # Ultralytics begins its messages with an emoji.
        text = "".join(c for c in str(e) if c.isascii() or unicodedata.category(c)[0] not in "SMC").strip()
        reason = text.splitlines()[0].strip(" .") if text else type(e).__name__
        raise WeightsError(
            f"{path.name} is not here and could not be downloaded ({reason}). Give --weights: the sample {SAMPLE} is a "
            "detector to try with."
        ) from e
