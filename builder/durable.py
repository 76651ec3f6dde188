"""Writing to a disk so that a crash leaves either the old or the new: synced files, locks that die with their owner."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path


def write_file(target: Path, content: bytes) -> None:
    """Write a file, its folders included, and have its content on the disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    sync(target)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, its folders included, and have its content on the disk.

    A copy and no hard link: whoever edits the source later would edit what was published.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    sync(target)


def sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
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
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        undo.callback(_remove_if_empty, each)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "expected a folder, found a file", str(folder))


@contextlib.contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold a lock file, which is removed at the end; the system gives the lock up when this process ends, however.

    Raises:
        TimeoutError: another process has held it all that time.
    """
    deadline = time.monotonic() + timeout_s
    while (descriptor := _try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock", str(path))
        time.sleep(0.02)
    try:
        yield
    finally:
        try:
            # A lock file that stays does no harm, and what was done under it is done.
            with contextlib.suppress(OSError):
                path.unlink()
        finally:
            os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """The descriptor of the locked file, or None where another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The former holder removes the file before it lets go: a lock on a removed file guards nothing.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
