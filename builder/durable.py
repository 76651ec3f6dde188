"""Writing to a disk so that a crash leaves either the old or the new.

Synced files, locks that die with their owner, temporary folders that the next one to come removes. An OSError from here
names the file that could not be read or written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_COPIED_AT_ONCE_BYTES = 1 << 20
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789_"
"""Eight of them end a scratch folder's name, as tempfile has it."""
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What flock(2) says on file systems such as Lustre without its option flock."""
_TAKEN_AWAY_IN_A_ROW = 100
"""How often what another process removes in the moment before its use is made again: where that is not the cause, as
below /proc, it fails each time."""
_HOLDING: set[int] = set()
"""Descriptors of this process that hold locks."""


def write_file(target: Path, content: bytes) -> None:
    """Write a file, its folders included, and have its content on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _naming(target):
        target.write_bytes(content)
    sync(target)


def replace_file(target: Path, content: bytes) -> None:
    """Write a file whole or not at all, its folders included; what was there stays until the new one is complete."""
    # Containers that share a cache may have the same process ids.
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        write_file(unfinished, content)
        unfinished.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, its folders included, and have its content on the disk.

    A copy and no hard link: whoever edits the source later would edit what was published.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # shutil.copyfile names the source, whichever of the two it fails on.
    with source.open("rb") as reader, _naming(target), target.open("wb") as writer:
        while True:
            with _naming(source):
                piece = reader.read(_COPIED_AT_ONCE_BYTES)
            if not piece:
                break
            writer.write(piece)
    sync(target)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folders(folder: Path) -> None:
    """Have the entries of a folder and of every folder below it on the disk."""
    for parent, _, _ in os.walk(folder, topdown=False):
        sync(Path(parent))


def make_folders(folder: Path, undo: ExitStack) -> None:
    """Make a folder and those above it; undone, the new ones are gone where nothing was put into them.

    Raises:
        OSError: it cannot be made, or there is a file in its place.
    """
    _again_if_taken_away(lambda: _make_missing(folder, undo))
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "expected a folder, found a file", str(folder))


@contextlib.contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder ``<parent>/<prefix>...`` that is gone at the end; one that is renamed meanwhile stays.

    It is locked as long as this process lives: ``sweep`` removes those of processes that were killed.
    """
    with ExitStack() as undo:
        yield _again_if_taken_away(lambda: _locked_folder(parent, prefix, undo))


def sweep(parent: Path, prefix_pattern: str) -> None:
    """Remove the scratch folders that killed processes have left; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        for folder in parent.iterdir():
            if re.fullmatch(f"(?:{prefix_pattern})[{_LETTERS}]{{8}}", folder.name):
                _remove_if_abandoned(folder)


@contextlib.contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold a lock file, which is removed at the end; the system gives the lock up when this process ends, however.

    Its folder is made where it is missing; at the end that, too, is gone where nothing was put into it.

    Raises:
        TimeoutError: another process has held it all that time.
    """
    deadline = time.monotonic() + timeout_s
    with ExitStack() as undo:
        while (descriptor := _again_if_taken_away(lambda: _try_lock(path, undo))) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock", str(path))
            time.sleep(0.02)
        _HOLDING.add(descriptor)
        try:
            yield
        finally:
            try:
                # A lock file that stays does no harm, and what was done under it is done.
                with contextlib.suppress(OSError):
                    path.unlink()
            finally:
                _let_go(descriptor)


@contextlib.contextmanager
def locked_if_possible(path: Path, timeout_s: float) -> Iterator[None]:
    """``locked``, and where the file system has no locks, nothing is held: for what is whole all the same."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, timeout_s))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def _again_if_taken_away(act: Callable[[], T]) -> T:
    """What ``act`` gives, which another process's undoing may leave without a file or folder that it relies on."""
    for _ in range(_TAKEN_AWAY_IN_A_ROW):
        with contextlib.suppress(FileNotFoundError):
            return act()
    return act()


def _make_missing(folder: Path, undo: ExitStack) -> None:
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        undo.callback(_remove_if_empty, each)


def _locked_folder(parent: Path, prefix: str, undo: ExitStack) -> Path:
    """A new folder that this process has locked.

    Raises:
        FileNotFoundError: another process has swept it in the moment before its lock, or removed ``parent``.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"{prefix}{''.join(secrets.choice(_LETTERS) for _ in range(8))}"
    # Before it is there: a signal may come between a folder and what promises its removal.
    undo.callback(shutil.rmtree, folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        undo.pop_all()  # it is another's
        raise
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    _HOLDING.add(descriptor)
    undo.callback(_let_go, descriptor)
    # Where the file system has no locks, nothing is swept either.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if not folder.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    return folder


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name into an OSError that has none: those of reading, writing and syncing have none."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def _try_lock(path: Path, undo: ExitStack) -> int | None:
    """The descriptor of the locked file, or None where another process has it.

    Raises:
        FileNotFoundError: its former holder has removed it, or its folder, in the moment before.
    """
    make_folders(path.parent, undo)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The former holder removes the file before it lets go: a lock on a removed file guards nothing.
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _let_go(descriptor: int) -> None:
    # A child that was forked has let go of it already, and may have another file by that number.
    if descriptor in _HOLDING:
        _HOLDING.discard(descriptor)
        os.close(descriptor)


def _let_go_in_child() -> None:
    """A lock ends with the process that took it: children that load data would hold it on for a while."""
    while _HOLDING:
        with contextlib.suppress(OSError):
            os.close(_HOLDING.pop())


os.register_at_fork(after_in_child=_let_go_in_child)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
