"""A checkpoint is two files: the state, and beside it a small JSON with its sha256, which is written last.

    <run>/checkpoints/e0003-s00000480.pt     the state, torch's zip archive of plain values and tensors
    <run>/checkpoints/e0003-s00000480.json   {"format": 1, "file", "bytes", "sha256", "meta": {...}}

Both are written under another name, synced and renamed. A state without its JSON was not finished and counts for
nothing; one that differs from its JSON is damaged and is passed over.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.durable import replace_file, sync
from trainer.errors import CheckpointError

FORMAT = 1


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
    import torch

    path = folder / f"{meta.name}.pt"
    archive = io.BytesIO()
    torch.save(dict(state), archive)
    content = archive.getvalue()
    record = {
        "format": FORMAT,
        "file": path.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "meta": dataclasses.asdict(meta),
    }
    try:
        # A state must never lie beside the sidecar of another.
        sidecar(path).unlink(missing_ok=True)
        replace_file(path, content)
        replace_file(sidecar(path), json.dumps(record, indent=1).encode())
        sync(folder)
    except OSError as e:
        path.unlink(missing_ok=True)
        raise CheckpointError(f"the checkpoint {path} was not written: {e.strerror or e}.") from e
    return path


def newest_valid(folder: Path) -> Found | None:
    """The newest checkpoint whose size and sha256 are as its sidecar says; None where there is none."""
    passed_over: list[tuple[Path, str]] = []
    for path in sorted(folder.glob("e*-s*.pt"), reverse=True):
        try:
            _, meta = _verified(path)
        except CheckpointError as e:
            passed_over.append((path, str(e)))
            continue
        return Found(path=path, meta=meta, passed_over=tuple(passed_over))
    if passed_over:
        reasons = "; ".join(reason for _, reason in passed_over[:3])
        raise CheckpointError(f"{folder} holds {len(passed_over)} checkpoint(s) and none that verifies: {reasons}")
    return None


def read_checkpoint(path: Path) -> tuple[dict[str, Any], CheckpointMeta]:
    """A checkpoint's state on the CPU, and what its sidecar says; nothing that the file says is run.

    Raises:
        CheckpointError: it is missing, cut short, damaged or of another format.
    """
    import torch

    content, meta = _verified(path)
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as e:  # whatever torch stumbles over
        raise CheckpointError(f"{path} cannot be read by this torch: {str(e).splitlines()[0][:120]}.") from e
    return state, meta


def sidecar(path: Path) -> Path:
    """Where the sha256 of a checkpoint is."""
    return path.with_suffix(".json")


def _verified(path: Path) -> tuple[bytes, CheckpointMeta]:
    try:
        record = json.loads(sidecar(path).read_bytes())
        content = path.read_bytes()
    except FileNotFoundError as e:
        raise CheckpointError(f"{path} was not finished: there is no {Path(e.filename).name}.") from e
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path} cannot be read: {e}.") from e
    form = record.get("format") if isinstance(record, dict) else None
    if form != FORMAT:
        raise CheckpointError(f"{path} has the format {form!r}, this program reads {FORMAT}: resume with its release.")
    if len(content) != record.get("bytes"):
        raise CheckpointError(f"{path} is cut short: expected {record.get('bytes')} bytes, found {len(content)}.")
    if hashlib.sha256(content).hexdigest() != record.get("sha256"):
        raise CheckpointError(f"{path} is damaged: its sha256 is not that of {sidecar(path).name}.")
    try:
        return content, CheckpointMeta(**record["meta"])
    except (KeyError, TypeError) as e:
        raise CheckpointError(f"{sidecar(path)} is not a checkpoint's: {e}.") from e
