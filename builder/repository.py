"""Publishes versions into a Triton model repository, whole or not at all.

    <repository>/NAME/config.pbtxt          the configuration in use; configs/*.pbtxt are those of other machines
    <repository>/NAME/2/                    a version: model.onnx, model.py, labels.txt, manifest.json
    <repository>/NAME/2/configs/            every configuration as this version was published with

A version is written in a temporary folder on the same file system and renamed into place. Only then are the
configurations replaced, one rename each, config.pbtxt last. Each of them names its one version, so at every moment each
names a version that is whole. Versions that were published before stay.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from builder.artifacts import ConfigFile
from builder.durable import copy_file, locked, make_folders, sync, sync_folders, write_file
from builder.errors import RepositoryError, SpecError
from builder.manifest import (
    MANIFEST,
    FileRecord,
    check_version,
    manifest_text,
    record_of,
    record_of_bytes,
    versions_of,
)

MODEL_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
CONFIG_PATH = re.compile(r"config\.pbtxt|configs/(?!config\.pbtxt)[A-Za-z0-9_-][A-Za-z0-9_.-]*\.pbtxt")
LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedVersion:
    """A version that is in place, with the configurations that name it."""

    path: Path
    version: int
    changed: bool
    """False: this very version was in place already, and nothing was written."""
    older_configs: tuple[str, ...]
    """Configurations of former builds, which still name an older version, e.g. ``configs/t4.pbtxt``."""
    replaced_edits: tuple[str, ...] = ()
    """Configurations that had been changed since they were published, and were replaced all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionContent:
    """What a version is made of."""

    files: Mapping[str, Path | bytes]
    """A path to copy, or the bytes themselves, by their place in the version's folder."""
    configs: Callable[[int], tuple[ConfigFile, ...]]
    """The configurations for a version number."""
    build: Mapping[str, Any]
    """Goes into the manifest: from what, with what and how well this was built, without clock times and absolute
    paths."""

    def __post_init__(self) -> None:
        """Check that every file lies inside the version."""
        for path in self.files:
            pure = PurePosixPath(path)
            inside = not pure.is_absolute() and ".." not in pure.parts
            assert inside, f"expected a path inside the version, got {path}"
            assert pure.parts[0] not in (MANIFEST, "configs"), f"{path} is written by publish itself"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Content:
    """A version as it should be on the disk."""

    version: int
    files: Mapping[str, Path | bytes]
    """The manifest and the copies of the configurations included."""
    configs: tuple[ConfigFile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """What ``publish`` was asked for, before a version number is chosen."""

    name: str
    version: VersionContent
    records: dict[str, FileRecord] = field(default_factory=dict)

    def content(self, version: int) -> _Content:
        """The request as that version."""
        configs = self.version.configs(version)
        paths = [config.relative_path for config in configs]
        assert "config.pbtxt" in paths, "tritonserver needs a config.pbtxt"
        assert all(CONFIG_PATH.fullmatch(path) for path in paths), f"expected configs/NAME.pbtxt, got {paths}"
        copies = {f"configs/{PurePosixPath(each.relative_path).name}": each.text.encode() for each in configs}
        records = self.records | {path: record_of_bytes(text) for path, text in copies.items()}
        manifest = manifest_text(self.name, version, self.version.build, records)
        files = {**self.version.files, **copies, MANIFEST: manifest.encode()}
        return _Content(version=version, files=files, configs=configs)


def check_model_name(name: str) -> str:
    """The name, where Triton, a file system and a URL can all take it.

    Raises:
        SpecError: it is empty, too long, hidden, or has a character other than letters, digits, ``_``, ``.``, ``-``.
    """
    if not MODEL_NAME.fullmatch(name):
        raise SpecError(
            f"model name: expected 1 to 100 letters, digits, '_', '.' or '-', with no leading '.', got {name!r}; "
            "give another with --name"
        )
    return name


def check_target(repository: Path) -> None:
    """Pass where a repository can be written or made at this place, as far as can be told without writing.

    Raises:
        RepositoryError: it cannot.
    """
    nearest = next(path for path in (repository.absolute(), *repository.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise RepositoryError(f"cannot publish to {repository}: {nearest} is a file; name a folder with --repository")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise RepositoryError(
            f"cannot publish to {repository}: {nearest} cannot be written; mend that, or name another with --repository"
        )


def publish(
    repository: Path,
    name: str,
    *,
    files: Mapping[str, Path | bytes],
    configs: Callable[[int], tuple[ConfigFile, ...]],
    build: Mapping[str, Any],
) -> PublishedVersion:
    """``publish_content`` of a content that does not depend on what is published already."""
    content = VersionContent(files=files, configs=configs, build=build)
    return publish_content(repository, name, lambda: content)


def publish_content(repository: Path, name: str, content: Callable[[], VersionContent]) -> PublishedVersion:
    """Put a version of the model ``name`` in place; where the same is there already, nothing is written.

    ``content`` is called while no other build publishes this model: it can take over what the newest version holds.

    Raises:
        RepositoryError: the repository cannot be written, or another build holds it; it is then as it was.
        SpecError: the name is none that Triton can take.
    """
    check_model_name(name)
    try:
        with locked(repository / f".{name}.lock", LOCK_TIMEOUT_S):
            _remove_leftovers(repository, name)
            published = _publish_locked(repository, _Request(name=name, version=content()))
    except TimeoutError as error:
        raise RepositoryError(
            f"another build has been publishing {name} in {repository} for over {LOCK_TIMEOUT_S:.0f} s; "
            f"wait for it, or end it, and run this again"
        ) from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise RepositoryError(
            f"cannot publish {name} in {repository}: {error.strerror or error}{where}; the repository is as it was; "
            f"expected a folder that this user can write, on a disk with room for the model"
        ) from error
    return published


def _publish_locked(repository: Path, request: _Request) -> PublishedVersion:
    model = repository / request.name
    if model.is_symlink():
        raise RepositoryError(f"expected a folder at {model}, found a symbolic link; name the folder that it leads to")
    if model.exists() and not model.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "expected a folder, found a file", str(model))
    _check_ours(model)
    for path, source in request.version.files.items():
        request.records[path] = record_of_bytes(source) if isinstance(source, bytes) else record_of(source)
    existing = versions_of(model)
    same = [version for version in existing if _is_published(request.content(version), model)]
    in_use = [version for version in same if _is_in_use(request.content(version), model)]
    # A build that was killed between its version and its configurations is finished, not repeated.
    version = (in_use or same or [max(existing, default=0) + 1])[0]
    content = request.content(version)
    ours = {config.relative_path for config in content.configs}
    in_place = {f"configs/{path.name}" for path in model.glob("configs/*.pbtxt")}
    edits = tuple(sorted(path for path in ours if _is_edited(model, path, existing)))
    if not in_use:
        _write(content, model, new=not same)
    return PublishedVersion(
        path=model / str(version),
        version=version,
        changed=not in_use,
        older_configs=tuple(sorted(in_place - ours)),
        replaced_edits=() if in_use else edits,
    )


def _check_ours(model: Path) -> None:
    """Pass where the folder is new, or holds what this project has published.

    Raises:
        RepositoryError: it holds a model of somebody else.
    """
    published = any((model / str(version) / MANIFEST).is_file() for version in versions_of(model))
    if not published and (model / "config.pbtxt").exists():
        raise RepositoryError(
            f"{model} holds a model that this project has not published: none of its versions has a {MANIFEST}; give "
            "yours another name with --name, or move that one away"
        )


def _is_edited(model: Path, path: str, versions: list[int]) -> bool:
    """Whether a configuration in place is none that was published."""
    try:
        text = (model / path).read_bytes()
    except OSError:
        return False
    copies = (model / str(version) / "configs" / PurePosixPath(path).name for version in versions)
    return not any(_holds(copy, text) for copy in copies)


def _is_published(content: _Content, model: Path) -> bool:
    """Whether this very content is whole in the version's folder."""
    folder = model / str(content.version)
    manifest = content.files[MANIFEST]
    return _holds(folder / MANIFEST, manifest) and not check_version(folder).messages


def _is_in_use(content: _Content, model: Path) -> bool:
    return all(_holds(model / config.relative_path, config.text.encode()) for config in content.configs)


def _holds(path: Path, expected: Path | bytes) -> bool:
    try:
        return path.read_bytes() == expected
    except OSError:
        return False


def _write(content: _Content, model: Path, *, new: bool) -> None:
    """Write the version where it is new, and its configurations; on an error undo what is visible."""
    version = str(content.version)
    with _staging_folder(model) as staging, ExitStack() as undo:
        for path, source in content.files.items() if new else ():
            if isinstance(source, bytes):
                write_file(staging / version / path, source)
            else:
                copy_file(source, staging / version / path)
        for config in content.configs:
            write_file(staging / config.relative_path, config.text.encode())
        sync_folders(staging)
        if not model.exists():
            _rename(staging, model, undo)
        else:
            if new:
                _rename(staging / version, model / version, undo)
                # On the disk before a configuration names it.
                sync(model)
            _replace_configs(content.configs, staging, model, undo)
        sync(model.parent)
        undo.pop_all()


def _replace_configs(configs: tuple[ConfigFile, ...], staging: Path, model: Path, undo: ExitStack) -> None:
    """Put each configuration in the place of its predecessor, config.pbtxt last."""
    make_folders(model / "configs", undo)
    for config in sorted(configs, key=lambda each: each.relative_path == "config.pbtxt"):
        target = model / config.relative_path
        if target.exists():
            predecessor = staging / "replaced" / config.relative_path
            copy_file(target, predecessor)
            undo.callback(os.replace, predecessor, target)
        else:
            undo.callback(target.unlink, missing_ok=True)
        (staging / config.relative_path).replace(target)
    sync(model / "configs")
    sync(model)


def _rename(source: Path, target: Path, undo: ExitStack) -> None:
    source.rename(target)
    undo.callback(target.rename, source)


@contextlib.contextmanager
def _staging_folder(model: Path) -> Iterator[Path]:
    """A folder on the repository's file system that tritonserver does not look into, and that is gone at the end."""
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    repository = model.parent.resolve()
    with ExitStack() as undo:
        if model.is_dir():
            staging = model / f".tmp-{unique}"
        elif os.access(repository.parent, os.W_OK) and repository.parent.stat().st_dev == repository.stat().st_dev:
            # tritonserver takes every folder in a repository for a model, a hidden one too, and ends where it is none:
            # a model's first version is staged outside, and its folder appears whole.
            staging = repository.parent / f"{_beside_prefix(model)}{unique}"
        else:
            make_folders(model, undo)
            staging = model / f".tmp-{unique}"
        staging.mkdir()
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        undo.pop_all()


def _beside_prefix(model: Path) -> str:
    # No model name has an "@", so no two models share a prefix.
    return f".{model.parent.resolve().name}@{model.name}.tmp-"


def _remove_leftovers(repository: Path, name: str) -> None:
    """Remove what killed builds of this model have left; its lock is held, so no living one owns it."""
    model = repository / name
    for folder, prefix in ((model, ".tmp-"), (repository.resolve().parent, _beside_prefix(model))):
        for path in folder.iterdir() if folder.is_dir() else ():
            if re.fullmatch(re.escape(prefix) + r"\d+-[0-9a-f]{8}", path.name):
                shutil.rmtree(path)
