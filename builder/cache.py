"""Finished stages by the content of their inputs: a stage whose inputs have not changed is not run again.

A stage's folder appears and goes whole (temporary folder, rename), so builds may share a cache.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.durable import locked_if_possible, scratch_folder, sweep, write_file
from builder.errors import BuilderError

_RECORD = "stage.json"
_LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One finished stage."""

    name: str
    folder: Path
    result: dict[str, Any]
    """What the stage found out, JSON values."""
    seconds: float
    reused: bool


class StageCache:
    """A folder of finished stages, ``<root>/<stage>/<key>/``."""

    def __init__(self, root: Path | None = None) -> None:
        """Keep stages under ``root``; by default in the user's cache folder."""
        self.root = root or default_root() / "stages"
        self._swept = False

    def forget(self, stage: Stage) -> None:
        """Have the stage made again next time, where another build has not done so already."""
        with contextlib.suppress(OSError), _alone_at(stage.folder):
            if _read(stage.folder) == stage.result:
                _take_away(stage.folder)

    def run(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], dict[str, Any]]) -> Stage:
        """The stage ``name`` for ``inputs``: found, or made by ``make(folder)``, which fills the folder.

        Raises:
            BuilderError: the cache cannot be written; whatever ``make`` raises, and then nothing is kept.
        """
        start = time.perf_counter()
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:32]
        folder = self.root / name / key
        found = _read(folder)
        if found is None:
            found = self._make(folder, make)
            return Stage(name=name, folder=folder, result=found, seconds=time.perf_counter() - start, reused=False)
        return Stage(name=name, folder=folder, result=found, seconds=time.perf_counter() - start, reused=True)

    def _make(self, folder: Path, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        self._sweep()
        try:
            with scratch_folder(folder.parent, f".{folder.name}-") as scratch:
                with _naming_what_was_written(scratch):
                    result = make(scratch)
                record = {"result": result, "files": {p.name: file_sha256(p) for p in sorted(scratch.iterdir())}}
                write_file(scratch / _RECORD, json.dumps(record, sort_keys=True, indent=1).encode())
                _move(scratch, folder)
        except OSError as e:
            raise BuilderError(self._what_failed(e)) from e
        # Read back, so that a stage gives the same values whether it was made or found.
        made: dict[str, Any] = json.loads(json.dumps(result))
        return made

    def _sweep(self) -> None:
        """Remove what builds that were killed have left, once."""
        if not self._swept:
            self._swept = True
            for stage in self.root.glob("*/"):
                sweep(stage, r"\.[0-9a-f]{32}-")

    def _what_failed(self, error: OSError) -> str:
        reason = error.strerror or str(error)
        path = self.root if error.filename is None else Path(os.fsdecode(error.filename))
        if not path.absolute().is_relative_to(self.root.absolute()):
            return f"expected to read or write {path}, got: {reason}."
        where = "" if path == self.root else f" ({path})"
        return f"the cache {self.root} cannot be written: {reason}{where}; mend that, or give another with --cache."


@contextlib.contextmanager
def _naming_what_was_written(folder: Path) -> Iterator[None]:
    """Put a file's name into an OSError that has none, as that of a write has."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            # A library that was handed a path stops at the file that it could not write: the newest.
            newest = max(folder.rglob("*"), key=lambda path: path.lstat().st_mtime_ns, default=None)
            error.filename = None if newest is None else str(newest)
        raise


def _move(scratch: Path, folder: Path) -> None:
    """Put a finished stage in its place, where there is none, or a damaged one: a file is missing or was changed."""
    with _alone_at(folder):
        if _read(folder) is None:
            if folder.exists():
                _take_away(folder)
            try:
                scratch.rename(folder)
            except OSError:
                # Without a lock another build of the same inputs may be first, and what it made is as good.
                if _read(folder) is None:
                    raise


@contextlib.contextmanager
def _alone_at(folder: Path) -> Iterator[None]:
    """Keep other builds from putting something into a stage's place, and from taking it away."""
    with locked_if_possible(folder.with_name(f".{folder.name}.lock"), _LOCK_TIMEOUT_S):
        yield


def _take_away(folder: Path) -> None:
    # Whoever looks meanwhile shall find the whole stage or none.
    with scratch_folder(folder.parent, f".{folder.name}-") as scratch, contextlib.suppress(OSError):
        folder.rename(scratch / folder.name)


def default_root() -> Path:
    """The user's cache folder for this project: ``$XDG_CACHE_HOME/yolo-triton``, else under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolo-triton"


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def code_sha256(modules: tuple[str, ...]) -> str:
    """A hash of the source of builder's ``modules``: a stage made by other code is another stage.

    Of another package they are named as seen from here: ``../clients/letterbox``.
    """
    digest = hashlib.sha256()
    for module in modules:
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    return digest.hexdigest()


def tool_versions(distributions: Sequence[str]) -> dict[str, str]:
    """Installed versions by distribution; read without importing anything."""
    versions = {}
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _read(folder: Path) -> dict[str, Any] | None:
    """A stage's result, or None where the folder is absent or not what was written."""
    try:
        record = json.loads((folder / _RECORD).read_text())
        if any(file_sha256(folder / name) != sha256 for name, sha256 in record["files"].items()):
            return None
        result: dict[str, Any] = record["result"]
        return result
    except (OSError, ValueError, KeyError):
        return None
