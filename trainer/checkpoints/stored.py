"""What a store says of a checkpoint: the sidecar of the machine it was written on, and the object that holds its state.

{"format": 1, "object": {"name", "bytes", "sha256"}, "record": {...}}       or, with a key,
{"format": 1, "sealed": base64 of that}
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

from trainer.checkpoints.file import NAME, Record, parse_record
from trainer.checkpoints.sealing import ENVIRONMENT, seal_bytes, unseal_bytes
from trainer.errors import CheckpointError, SealError

FORMAT = 1
SEALED_SUFFIX = ".sealed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A checkpoint in a store."""

    record: Record
    """Of the state as it was on the machine."""
    object_name: str
    size_bytes: int
    """Of the object, which is the state or the sealed state."""
    sha256: str

    @property
    def is_sealed(self) -> bool:
        """Whether the object is encrypted."""
        return self.object_name.endswith(SEALED_SUFFIX)

    def to_bytes(self, key: bytes | None, run: str) -> bytes:
        """The content of the sidecar in the store."""
        name = {"name": self.object_name, "bytes": self.size_bytes, "sha256": self.sha256}
        values = {"format": FORMAT, "object": name, "record": json.loads(self.record.to_bytes())}
        if key is None:
            return json.dumps(values, indent=1).encode()
        sealed = seal_bytes(json.dumps(values).encode(), key, _label(run, self.record.meta.name))
        return json.dumps({"format": FORMAT, "sealed": base64.b64encode(sealed).decode()}).encode()


def object_name(record: Record, *, sealed: bool) -> str:
    """The name of the object of a state."""
    return f"{record.meta.name}-{record.sha256[:16]}.pt{SEALED_SUFFIX if sealed else ''}"


def parse_stored(content: bytes, key: bytes | None, run: str, name: str) -> Stored:
    """A sidecar of a store.

    Raises:
        SealError: it is sealed, and there is no key or another.
        CheckpointError: it is none, or is of another format.
    """
    values = _object(content, name)
    if "sealed" in values:
        if key is None:
            raise SealError(f"{run}/{name} is sealed: give its key by --key-file or {ENVIRONMENT}.")
        try:
            sealed = base64.b64decode(str(values["sealed"]), validate=True)
        except ValueError as e:
            raise CheckpointError(f"{name} has a damaged sidecar: {e}.") from e
        values = _object(unseal_bytes(sealed, key, _label(run, name)), name)
    try:
        record = parse_record(json.dumps(values["record"]).encode(), f"{name}.pt")
        there = values["object"]
        stored = Stored(
            record=record, object_name=there["name"], size_bytes=int(there["bytes"]), sha256=str(there["sha256"])
        )
    except (KeyError, TypeError, ValueError) as e:
        raise CheckpointError(f"{name} has a sidecar that is not a store's: {e}.") from e
    # The name comes from the store, and will be a path.
    if not re.fullmatch(NAME.pattern + r"-[0-9a-f]{16}\.pt(\.sealed)?", stored.object_name):
        raise CheckpointError(f"{name} has a sidecar that names no state: {stored.object_name!r}.")
    return stored


def state_label(run: str, record: Record) -> str:
    """What the chunks of a sealed state are bound to."""
    return f"{run}/{record.meta.name}.pt"


def _label(run: str, name: str) -> str:
    return f"{run}/{name}.json"


def _object(content: bytes, name: str) -> dict[str, Any]:
    try:
        values = json.loads(content)
    except ValueError as e:
        raise CheckpointError(f"{name} has a damaged sidecar: {e}.") from e
    form = values.get("format") if isinstance(values, dict) else None
    if form != FORMAT:
        raise CheckpointError(f"{name} has the format {form!r} in the store, this program reads {FORMAT}.")
    assert isinstance(values, dict), "a format was found in it"
    return values
