"""manifest.json: from what a version was built, and the sha256 of every file in it.

    {"schema_version": 1, "name": "shapes", "version": 2, "build": {...},
     "files": {"model.onnx": {"bytes": ..., "sha256": ...}, ...}, "manifest_sha256": ...}

``files`` names every file of the version's folder but the manifest itself, the copies of the configurations included.
``manifest_sha256`` is that of the rest of the manifest as JSON with sorted keys and no white space. It finds damage and
edits by hand; whoever means harm can write it anew.
It holds no clock time and no path outside the folder, so that the same build gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from builder.errors import RepositoryError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
OWN_HASH = "manifest_sha256"
VERSION_NAME = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """Size and hash of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionCheck:
    """A version's folder against its manifest."""

    files: int
    """How many files it should hold, the manifest included; 0 where the manifest cannot be read."""
    messages: tuple[str, ...]
    """Each a file, what was expected and what was found; empty: all is as it should be."""


def record_of(path: Path) -> FileRecord:
    """The record of a file on disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(size_bytes=file.tell(), sha256=digest)


def record_of_bytes(content: bytes) -> FileRecord:
    """The record of a file that has yet to be written."""
    return FileRecord(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def manifest_text(name: str, version: int, build: Mapping[str, Any], files: Mapping[str, FileRecord]) -> str:
    """The text of manifest.json; equal arguments give equal bytes.

    Raises:
        ValueError: ``build`` holds what JSON cannot: NaN, infinity, or a type of its own.
    """
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "build": build,
        "files": {path: {"bytes": record.size_bytes, "sha256": record.sha256} for path, record in files.items()},
    }
    try:
        # As it will be read back: JSON knows no tuples and no numbers as keys.
        values: dict[str, Any] = json.loads(json.dumps(manifest, allow_nan=False))
    except TypeError as error:
        raise ValueError(f"the manifest's build holds what JSON cannot: {error}") from error
    values[OWN_HASH] = _own_sha256(values)
    return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a version's folder.

    Raises:
        RepositoryError: there is none, or it is not a manifest that this program can read.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RepositoryError(f"{MANIFEST}: missing, so nothing says what this version should hold") from None
    except (OSError, ValueError) as error:
        raise RepositoryError(f"{MANIFEST}: expected JSON, got: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        found = manifest.get("schema_version") if isinstance(manifest, dict) else type(manifest).__name__
        raise RepositoryError(f"{MANIFEST}: expected schema_version {SCHEMA_VERSION}, got {found!r}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(_is_record(record) for record in files.values()):
        raise RepositoryError(f"{MANIFEST}: expected 'files' to give bytes and sha256 of every file")
    return manifest


def versions_of(model: Path) -> list[int]:
    """The numbers of a model's version folders, newest first; empty where there is no such model."""
    if not model.is_dir():
        return []
    numbers = (int(path.name) for path in model.iterdir() if VERSION_NAME.fullmatch(path.name) and path.is_dir())
    return sorted(numbers, reverse=True)


def check_version(folder: Path) -> VersionCheck:
    """Compare ``<repository>/NAME/<version>`` with its manifest: every file, its size and its sha256."""
    try:
        manifest = read_manifest(folder)
    except RepositoryError as error:
        return VersionCheck(files=0, messages=(str(error),))
    messages = []
    if (recorded_hash := manifest.get(OWN_HASH)) is None:
        messages.append(f"{MANIFEST}: expected {OWN_HASH}, found none: changed, or of an older release; build again")
    elif recorded_hash != _own_sha256(manifest):
        messages.append(f"{MANIFEST}: was changed since it was published, its {OWN_HASH} is that of another content")
    for key, expected in (("name", folder.parent.name), ("version", int(folder.name))):
        if manifest.get(key) != expected:
            messages.append(f"{MANIFEST}: expected {key} {expected!r}, as the folder says, got {manifest.get(key)!r}")
    recorded = manifest["files"]
    for relative, record in sorted(recorded.items()):
        messages += _file_messages(folder, relative, record)
    for extra in sorted(_files_in(folder) - {MANIFEST, *recorded}):
        messages.append(f"{extra}: {kind_message(folder / extra, folder.parents[1]) or 'not in the manifest'}")
    return VersionCheck(files=len(recorded) + 1, messages=tuple(messages))


def kind_message(path: Path, repository: Path) -> str | None:
    """Why a path is not a regular file inside the repository, or None where it is one."""
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError:
        return "missing"
    except (OSError, RuntimeError) as error:
        return f"cannot be followed: {error}"
    if not target.is_relative_to(repository.resolve()):
        return f"a symbolic link to {target}, outside the repository"
    # A pipe or a device would block whoever reads it.
    if not stat.S_ISREG(target.stat().st_mode):
        return "expected a regular file"
    return None


def _own_sha256(manifest: Mapping[str, Any]) -> str:
    """The hash of a manifest's content but for the field that holds it."""
    content = {key: value for key, value in manifest.items() if key != OWN_HASH}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # A lone surrogate, which JSON can hold and UTF-8 cannot, is damage too, and no reason to fail.
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()


def _is_record(record: object) -> bool:
    return isinstance(record, dict) and isinstance(record.get("bytes"), int) and isinstance(record.get("sha256"), str)


def _file_messages(folder: Path, relative: str, record: Mapping[str, Any]) -> Iterator[str]:
    """How one file differs from its record."""
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts:
        yield f"{relative}: the manifest names a file outside the version's folder"
        return
    path = folder / relative
    if message := kind_message(path, folder.parents[1]):
        yield f"{relative}: {message}"
        return
    try:
        size = path.stat().st_size
        found = record_of(path).sha256 if size == record["bytes"] else ""
    except OSError as error:
        yield f"{relative}: cannot be read: {error.strerror}"
        return
    if size != record["bytes"]:
        yield f"{relative}: expected {record['bytes']} bytes, found {size}"
    elif found != record["sha256"]:
        yield f"{relative}: expected sha256 {record['sha256'][:12]}..., found {found[:12]}..."


def _files_in(folder: Path) -> set[str]:
    """Every file and symbolic link below a version's folder, as the manifest names them."""
    found = set()
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        links = [each for each in folders if (here / each).is_symlink()]
        paths = (here / each for each in [*files, *links])
        found |= {path.relative_to(folder).as_posix() for path in paths if not _is_compiled(path)}
    return found


def _is_compiled(path: Path) -> bool:
    """Whether a file is what Python leaves beside model.py when the model loads."""
    source = path.parent.parent / f"{path.name.partition('.')[0]}.py"
    return path.parent.name == "__pycache__" and path.suffix == ".pyc" and source.is_file()
