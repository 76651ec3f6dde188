"""A run's folder at an fsspec address: s3://, oss://, gs://, file:// and whatever else fsspec has a package for.

    <address>/<run>/e0003-s00000480-1f0c….pt    the state as it is or sealed, named by its content
    <address>/<run>/e0003-s00000480.json        what it is, written when the state has arrived

A state of another content has another name, so a checkpoint that is written again never damages the one before.
Credentials and endpoints are what each package reads from its environment and files (AWS_ENDPOINT_URL and the like).
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builder.errors import SpecError
from trainer.errors import StoreError

SIDECAR = re.compile(r"(e[0-9]{4,9}-s[0-9]{8,12})\.json")
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
# Object stores have none, and s3fs would make a bucket that is missing.
_WITH_FOLDERS = frozenset({"file", "local", "sftp", "ssh", "ftp", "smb", "hdfs"})
_NO_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"})
"""Of botocore and google-auth, which need not be installed."""


class _DiskError(Exception):
    """This machine's disk fails, and not the store."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def check_run_name(name: str) -> str:
    """The name, where it can be a folder's.

    Raises:
        SpecError: it is no name.
    """
    if not re.fullmatch(r"[^/\\\x00-\x1f]{1,200}", name) or name in (".", ".."):
        raise SpecError(f"expected a run's name without slashes, got {name!r}.")
    return name


class RefusedError(StoreError):
    """The store answers, and will not: asking again is of no use."""


class NotThereError(RefusedError):
    """The store answers, and does not have it."""


class Remote:
    """Where a run's checkpoints are; every failure is a StoreError that names the address."""

    def __init__(self, address: str, run: str) -> None:
        """Nothing is asked of the store yet.

        Raises:
            SpecError: the address is none, holds a password, or its package is not installed.
        """
        import fsspec

        # A command line and settings.json are read by others.
        if re.search(r"://[^/@]*:[^/@]*@", address):
            raise SpecError("--store: expected an address without a password; give credentials by the environment.")
        protocol = address.partition("://")[0] if "://" in address else "file"
        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        try:
            self._fs, path = fsspec.core.url_to_fs(address.rstrip("/"), **options)
        except ImportError as e:
            raise SpecError(f"the store {address} needs a package that is not installed: {e}.") from e
        except ValueError as e:
            raise SpecError(f"--store {address}: {e}; expected an address such as s3://bucket/prefix.") from e
        except Exception as e:  # each package has errors of its own
            raise StoreError(f"the store {address} cannot be used: {reason(e)}.") from e
        self.address, self.run = address, check_run_name(run)
        self._top = path.rstrip("/")
        self._folder = f"{self._top}/{run}"
        self._has_folders = protocol in _WITH_FOLDERS

    def check(self) -> None:
        """Write something, so that a store that refuses is known before the training.

        Raises:
            StoreError: it refuses.
        """
        self.write(".probe", b"yolo-triton\n")
        # Stores that let nobody remove anything are good ones.
        with contextlib.suppress(StoreError):
            self.remove(".probe")

    def checkpoints(self) -> list[str]:
        """The names of those whose sidecar is there, in order."""
        return sorted(match[1] for name in self._names(self._folder) if (match := SIDECAR.fullmatch(name)))

    def runs(self) -> list[str]:
        """The names in the folder of runs."""
        return sorted(self._names(self._top))

    def put(self, local: Path, name: str) -> None:
        """Upload a file, in parts where it is large and the store has such; its size is compared."""
        with self._asking():
            self._make_folder()
            self._fs.put_file(str(local), f"{self._folder}/{name}")
            arrived, sent = int(self._fs.info(f"{self._folder}/{name}")["size"]), local.stat().st_size
        if arrived != sent:
            raise StoreError(f"the store {self.address} has {arrived} bytes of the {sent} of {self.run}/{name}.")

    def write(self, name: str, content: bytes) -> None:
        """Write a small file."""
        with self._asking():
            self._make_folder()
            self._fs.pipe_file(f"{self._folder}/{name}", content)

    def read(self, name: str) -> bytes:
        """A small file's content."""
        with self._asking():
            return bytes(self._fs.cat_file(f"{self._folder}/{name}"))

    def get(self, name: str, local: Path) -> None:
        """Download a file."""
        with self._asking():
            try:
                self._fs.get_file(f"{self._folder}/{name}", str(local))
            except OSError as e:
                if e.errno in _DISK:
                    raise _DiskError(e) from e
                raise

    def remove(self, *names: str) -> None:
        """Remove files; one that is not there is removed."""
        for name in names:
            with self._asking(), contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._folder}/{name}")

    def _names(self, folder: str) -> list[str]:
        with self._asking():
            try:
                return [path.rstrip("/").rpartition("/")[2] for path in self._fs.ls(folder, detail=False)]
            except FileNotFoundError:
                if folder == self._top:
                    raise
                return []

    def _make_folder(self) -> None:
        if self._has_folders:
            self._fs.makedirs(self._folder, exist_ok=True)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except _DiskError as e:
            raise e.error from e
        except Exception as e:  # each package has errors of its own
            raise _kind(e)(f"the store {self.address} failed: {reason(e)}.") from e


def _kind(error: Exception) -> type[StoreError]:
    if isinstance(error, FileNotFoundError):
        return NotThereError
    return RefusedError if isinstance(error, PermissionError) else StoreError


def reason(error: BaseException) -> str:
    """What a package says, in one line; Python's name for it only where that tells more."""
    if type(error).__name__ in _NO_CREDENTIALS:
        return (
            "no credentials were found; give them by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "GOOGLE_APPLICATION_CREDENTIALS), a profile or the machine's role"
        )
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    line = lines[0][:200].rstrip(".")
    if isinstance(error, FileNotFoundError):
        return line if " " in line else f"{line} is not there"
    return f"{type(error).__name__}: {line}"
