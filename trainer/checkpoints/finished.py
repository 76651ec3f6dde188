"""What a finished run leaves, beside its checkpoints in a store: run.json and the weights.

    <address>/<run>/best-1f0c….pt     a file as it is or sealed, named by its content
    <address>/<run>/finished.json     which files there are, written when all have arrived

{"format": 1, "files": [{"path", "object", "bytes", "sha256"}]}       bytes and sha256 of the file here; or, with a key,
{"format": 1, "sealed": base64 of that}
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.durable import replace_file
from builder.training_run import RUN_RECORD
from trainer.checkpoints.remote import NotThereError, Remote
from trainer.checkpoints.restore import Again, DamagedError
from trainer.checkpoints.sealing import ENVIRONMENT, seal_bytes, unseal_bytes
from trainer.checkpoints.stored import FORMAT, SEALED_SUFFIX
from trainer.checkpoints.stores import Retries
from trainer.checkpoints.writer import Say
from trainer.errors import CheckpointError, SealError

INDEX = "finished.json"
_PATH = re.compile(r"run\.json|weights/[A-Za-z0-9_-]{1,100}\.pt")
_OBJECT = re.compile(r"[A-Za-z0-9_-]{1,100}-[0-9a-f]{16}\.(json|pt)(\.sealed)?")
_ATTEMPTS = 4


def copy_finished(remotes: Sequence[Remote], run: Path, *, key: bytes | None, say: Say) -> None:
    """Have run.json and the weights of a finished run at every store; one that fails is told and costs its copy."""
    paths = [run / RUN_RECORD, *sorted((run / "weights").glob("*.pt"))]
    for remote in remotes:
        again = Again(Retries(attempts=_ATTEMPTS), say)
        try:
            files = [_sent(remote, run, path, key, again) for path in paths]
            content = _index(files, key, remote.run)
            again(functools.partial(remote.write, INDEX, content))
        except (CheckpointError, OSError) as e:
            say(f"warning: {remote.address} has not got {RUN_RECORD} and the weights: {e}")


def bring_back_finished(
    remote: Remote, folder: Path, *, key: bytes | None, say: Say, retries: Retries | None = None
) -> list[Path]:
    """Write what a finished run has left at a store into ``folder``; the files, none where it has not finished.

    A folder that holds a run.json keeps its own.

    Raises:
        SealError: it is sealed, and the key is missing or another.
        CheckpointError: the store fails, or what arrives is not what was sent.
        OSError: a file cannot be written here.
    """
    if (folder / RUN_RECORD).exists():
        return []
    again = Again(retries or Retries(), say)
    try:
        content = again(functools.partial(remote.read, INDEX))
    except NotThereError:
        return []
    files = _parsed(content, key, remote.run)
    # run.json last: what has it is whole.
    files.sort(key=lambda each: each["path"] == RUN_RECORD)
    written = []
    for each in files:
        arrived = again(functools.partial(_arrived, remote, each, key))
        replace_file(folder / each["path"], arrived)
        written.append(folder / each["path"])
    return written


def _sent(remote: Remote, run: Path, path: Path, key: bytes | None, again: Again) -> dict[str, Any]:
    """Upload one file; its entry in the index."""
    content, name = path.read_bytes(), path.relative_to(run).as_posix()
    sha256 = hashlib.sha256(content).hexdigest()
    stored = f"{path.stem}-{sha256[:16]}{path.suffix}{SEALED_SUFFIX if key else ''}"
    again(functools.partial(remote.write, stored, seal_bytes(content, key, f"{remote.run}/{name}") if key else content))
    return {"path": name, "object": stored, "bytes": len(content), "sha256": sha256}


def _arrived(remote: Remote, each: Mapping[str, Any], key: bytes | None) -> bytes:
    content = remote.read(each["object"])
    if each["object"].endswith(SEALED_SUFFIX):
        assert key is not None, "the index was unsealed with it"
        content = unseal_bytes(content, key, f"{remote.run}/{each['path']}")
    if len(content) != each["bytes"] or hashlib.sha256(content).hexdigest() != each["sha256"]:
        raise DamagedError(f"{each['object']} of the store {remote.address} is damaged or cut short.")
    return content


def _index(files: Sequence[Mapping[str, Any]], key: bytes | None, run: str) -> bytes:
    values = {"format": FORMAT, "files": list(files)}
    if key is None:
        return json.dumps(values, indent=1).encode()
    sealed = seal_bytes(json.dumps(values).encode(), key, f"{run}/{INDEX}")
    return json.dumps({"format": FORMAT, "sealed": base64.b64encode(sealed).decode()}).encode()


def _parsed(content: bytes, key: bytes | None, run: str) -> list[dict[str, Any]]:
    try:
        values = json.loads(content)
        if "sealed" in values:
            if key is None:
                raise SealError(f"{run}/{INDEX} is sealed: give its key by --key-file or {ENVIRONMENT}.")
            sealed = base64.b64decode(str(values["sealed"]), validate=True)
            values = json.loads(unseal_bytes(sealed, key, f"{run}/{INDEX}"))
        if values["format"] != FORMAT:
            raise ValueError(f"expected the format {FORMAT}, got {values['format']!r}")
        files = [{name: each[name] for name in ("path", "object", "bytes", "sha256")} for each in values["files"]]
    except (ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{run}/{INDEX} of the store is damaged: {e}.") from e
    for each in files:
        # The names come from the store, and will be paths.
        if not (_PATH.fullmatch(str(each["path"])) and _OBJECT.fullmatch(str(each["object"]))):
            raise CheckpointError(f"{run}/{INDEX} of the store names no file of a run: {each['path']!r}.")
    return files
