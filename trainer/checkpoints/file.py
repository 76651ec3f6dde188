"""A checkpoint is two files: the state, and beside it a small JSON with its sha256, which is written last.

    <run>/checkpoints/e0003-s00000480.pt     the state, torch's zip archive of plain values and tensors
    <run>/checkpoints/e0003-s00000480.json   {"format": 1, "file", "bytes", "sha256", "meta": {...}}

Both are written under another name, synced and renamed. A state without its JSON was not finished and counts for
nothing; one that differs from its JSON is damaged and is passed over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from builder.durable import sync, write_file
from trainer.errors import CheckpointError

FORMAT = 1
NAME = re.compile(r"e[0-9]{4,9}-s[0-9]{8,12}")
"""Of a checkpoint, without a suffix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointMeta:
    """What can be known of a checkpoint without reading its state."""

    run: str
    """The run's name."""
    epoch: int
    """Where the training goes on, from 0."""
    step: int
    """Global batches that are done since the run began."""
    fitness: float | None
    """Of the epoch that has just been validated; None between validations."""
    data_hash: str
    model_hash: str
    versions: Mapping[str, str]
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The file's name without its suffix; names sort as the training goes."""
        return f"e{self.epoch:04d}-s{self.step:08d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A sidecar."""

    size_bytes: int
    sha256: str
    meta: CheckpointMeta

    def to_bytes(self) -> bytes:
        """The sidecar's content."""
        values = {
            "format": FORMAT,
            "file": f"{self.meta.name}.pt",
            "bytes": self.size_bytes,
            "sha256": self.sha256,
            "meta": dataclasses.asdict(self.meta),
        }
        return json.dumps(values, indent=1).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The newest checkpoint of a folder that verifies."""

    path: Path
    meta: CheckpointMeta
    passed_over: tuple[tuple[Path, str], ...]
    """Newer ones that do not verify, and why."""


def write_checkpoint(folder: Path, state: Mapping[str, Any], meta: CheckpointMeta) -> Path:
    """Write a checkpoint whole or not at all; its path.

    Raises:
        CheckpointError: it cannot be written; what was there before is still there.
    """
    path = folder / f"{meta.name}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as unfinished:
            size_bytes, sha256 = _write_state(unfinished, state)
            publish(unfinished, path, Record(size_bytes=size_bytes, sha256=sha256, meta=meta))
    except OSError as e:
        raise CheckpointError(f"the checkpoint {path} was not written: {e.strerror or e}.") from e
    return path


def publish(unfinished: Path, path: Path, record: Record) -> None:
    """Give a state that is whole and synced its name, and then its sidecar.

    Raises:
        OSError: it cannot be done; what was there before is still there.
    """
    with temporary_file(sidecar(path)) as unfinished_sidecar:
        write_file(unfinished_sidecar, record.to_bytes())
        # A state must never lie beside the sidecar of another. All that needs room on the disk is done by now.
        sidecar(path).unlink(missing_ok=True)
        unfinished.replace(path)
        sync(path.parent)
        unfinished_sidecar.replace(sidecar(path))
        sync(path.parent)


def states(folder: Path) -> list[Path]:
    """The checkpoints' states in a folder, the newest last; whether they verify is not looked at."""
    return sorted(folder.glob("e*-s*.pt"))


def newest_valid(folder: Path) -> Found | None:
    """The newest checkpoint whose size and sha256 are as its sidecar says; None where there is none.

    Raises:
        CheckpointError: there are checkpoints, and none verifies.
    """
    passed_over: list[tuple[Path, str]] = []
    for path in reversed(states(folder)):
        try:
            meta = verify(path)
        except CheckpointError as e:
            passed_over.append((path, str(e)))
            continue
        return Found(path=path, meta=meta, passed_over=tuple(passed_over))
    if passed_over:
        reasons = "; ".join(reason for _, reason in passed_over[:3])
        raise CheckpointError(f"{folder} holds {len(passed_over)} checkpoint(s) and none that verifies: {reasons}")
    return None


def verify(path: Path) -> CheckpointMeta:
    """What the sidecar says, where the state is as the sidecar says.

    Raises:
        CheckpointError: it is missing, cut short, damaged or of another format.
    """
    record = read_record(path)
    with _reading(path), path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    _compare(path, record, size_bytes, sha256)
    return record.meta


def read_checkpoint(path: Path) -> tuple[dict[str, Any], CheckpointMeta]:
    """A checkpoint's state on the CPU, and what its sidecar says; nothing that the file says is run.

    Raises:
        CheckpointError: it is missing, cut short, damaged or of another format.
    """
    import torch

    record = read_record(path)
    with _reading(path):
        # What is verified is what is loaded: the file is read once.
        content = path.read_bytes()
    _compare(path, record, len(content), hashlib.sha256(content).hexdigest())
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as e:  # whatever torch stumbles over
        raise CheckpointError(f"{path} cannot be read by this torch: {str(e).splitlines()[0][:120]}.") from e
    return state, record.meta


def read_record(path: Path) -> Record:
    """The sidecar of a checkpoint.

    Raises:
        CheckpointError: it is missing, is none, or is of another format.
    """
    with _reading(path):
        content = sidecar(path).read_bytes()
    return parse_record(content, path.name)


def parse_record(content: bytes, origin: str) -> Record:
    """A sidecar from its content; ``origin`` is for messages.

    Raises:
        CheckpointError: it is none, or is of another format.
    """
    try:
        values = json.loads(content)
    except ValueError as e:
        raise CheckpointError(f"{origin} has a damaged sidecar: {e}.") from e
    form = values.get("format") if isinstance(values, dict) else None
    if form != FORMAT:
        raise CheckpointError(
            f"{origin} has the format {form!r}, this program reads {FORMAT}: resume with its release."
        )
    try:
        meta = CheckpointMeta(**values["meta"])
        record = Record(size_bytes=int(values["bytes"]), sha256=str(values["sha256"]), meta=meta)
        named = meta.name
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{origin} has a sidecar that is not a checkpoint's: {e}.") from e
    if Path(origin).stem != named:
        raise CheckpointError(f"{origin} has the sidecar of {named}.")
    return record


def sidecar(path: Path) -> Path:
    """Where the sha256 of a checkpoint is."""
    return path.with_suffix(".json")


@contextlib.contextmanager
def temporary_file(target: Path) -> Iterator[Path]:
    """A name beside ``target`` that is no checkpoint's; what has it in the end is removed."""
    path = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes have not finished; only one training writes into a folder, and has not begun to.

    A process that was killed may have had this one's number: in a container it mostly has.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            left = path.name.startswith(".") and path.suffix == ".tmp"
            if left or (path.suffix == ".pt" and NAME.fullmatch(path.stem) and not sidecar(path).exists()):
                with contextlib.suppress(OSError):
                    path.unlink()


class _Hashing:
    """A file that torch writes to: it hashes what comes, and keeps the first error.

    torch's writer answers an error with one of its own when it closes the archive, so none is raised before its end.
    """

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        if self.error is None:
            try:
                self._file.write(content)
            except OSError as e:
                self.error = e
            else:
                self._hash.update(content)
                self.size_bytes += len(content)
        return len(content)

    def flush(self) -> None:
        """Nothing is kept here."""

    def sha256(self) -> str:
        return self._hash.hexdigest()


def _write_state(path: Path, state: Mapping[str, Any]) -> tuple[int, str]:
    import torch

    with path.open("wb", buffering=0) as file:
        hashing = _Hashing(file)
        torch.save(dict(state), cast(IO[bytes], hashing))
        if hashing.error is not None:
            raise hashing.error
        os.fsync(file.fileno())
    return hashing.size_bytes, hashing.sha256()


def _compare(path: Path, record: Record, size_bytes: int, sha256: str) -> None:
    if size_bytes != record.size_bytes:
        raise CheckpointError(f"{path} is cut short: expected {record.size_bytes} bytes, found {size_bytes}.")
    if sha256 != record.sha256:
        raise CheckpointError(f"{path} is damaged: its sha256 is not that of {sidecar(path).name}.")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as e:
        missing = Path(e.filename or path).name
        raise CheckpointError(f"{path} was not finished: there is no {missing}.") from e
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read: {e.strerror or e}.") from e
