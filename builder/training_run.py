"""The training that weights came from: what a manifest takes up of the run.json that ``python -m trainer`` leaves.

It is found beside the weights' folder (RUN/weights/best.pt and RUN/run.json) or beside the weights themselves, and is
taken where it lists their very bytes. One that lists others, or is damaged, is told and left; one that was named is an
error.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from builder.errors import SpecError

RUN_RECORD = "run.json"
SCHEMA = "run/1"
FITNESS = "metrics/mAP50-95(B)"
"""What epochs and trainings are compared by, as Ultralytics and results.csv call it."""
_LARGEST_BYTES = 16_000_000


class _NotTakenError(Exception):
    """Why a run.json says nothing of the weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where weights came from, as far as it is known."""

    training: Mapping[str, Any] | None = None
    """For the manifest; None where it is not known."""
    warning: str = ""
    """Why a run.json that lies beside the weights was not taken."""


def origin_of(weights: Path, sha256: str, given: Path | None) -> Origin:
    """The training of weights, by the run.json that was named or that lies beside them.

    Raises:
        SpecError: the one that was named is none, or is of other weights.
    """
    path = given or _beside(weights)
    if path is None:
        return Origin()
    try:
        return Origin(training=_taken(path, weights.name, sha256))
    except _NotTakenError as e:
        if given is not None:
            raise SpecError(f"--run-record {given}: {e}. Give the {RUN_RECORD} of the run that wrote {weights}.") from e
        told = f"{path} was not taken, so the manifest names no training: {e}; --run-record FILE names another"
        return Origin(warning=told)


def training_line(training: object) -> str:
    """What a manifest says of the training, in a line; empty where it says nothing that can be read."""
    try:
        assert isinstance(training, Mapping), "a record is a mapping"
        data, weights = training["data"], training["weights"]
        row = training["last" if weights["file"] == "last.pt" else "best"] or {}
        figure = f", mAP50-95 {row[FITNESS]:.4f} in epoch {row['epoch']:.0f}" if row.get(FITNESS) is not None else ""
        return (
            f"trained in the run {training['name']} on the data {data['hash'][:12]} ({data['train']} images), "
            f"{training['epochs']} epochs{figure}: {weights['file']}, sha256 {weights['sha256'][:12]}"
        )
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError):
        return ""


def _beside(weights: Path) -> Path | None:
    if weights.suffix.lower() != ".pt":
        return None
    folder = weights.absolute().parent
    folders = [folder.parent, folder] if folder.name == "weights" else [folder]
    return next((each / RUN_RECORD for each in folders if (each / RUN_RECORD).is_file()), None)


def _taken(path: Path, weights: str, sha256: str) -> dict[str, Any]:
    """What a manifest holds of a run; raises _NotTakenError."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise _NotTakenError("it is larger than any run's")
        content = path.read_bytes()
        # A figure that is no number is null: a manifest holds no others.
        record = json.loads(content, parse_constant=lambda _: None)
    except OSError as e:
        raise _NotTakenError(f"it cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise _NotTakenError(f"it is damaged: {e}") from e
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA:
        raise _NotTakenError(f"expected a run's record with the schema {SCHEMA}, got {schema!r}")
    try:
        listed = {name: str(each["sha256"]) for name, each in record["weights"].items()}
        file = next((name for name, each in listed.items() if each == sha256), None)
        taken = {
            "name": str(record["name"]),
            "record_sha256": hashlib.sha256(content).hexdigest(),
            "data": {"hash": str(record["data"]["hash"]), **{n: record["data"][n] for n in ("names", "train", "val")}},
            "start": _without_folders(record["start"]),
            "arguments": _without_folders(record["arguments"]),
            "epochs": int(record["epochs"]),
            "steps": int(record["steps"]),
            **{name: dict(record[name]) if record[name] else None for name in ("best", "last")},
            "weights": {"file": PurePath(file or "").name, "sha256": sha256},
            "checkpoints": [
                {"file": PurePath(each["file"]).name, "epoch": each["epoch"], "step": each["step"],
                 "sha256": each["sha256"]}
                for each in record["checkpoints"]
            ],
            "versions": {str(name): str(version) for name, version in record["versions"].items()},
        }  # fmt: skip
        json.dumps(taken, allow_nan=False)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise _NotTakenError(f"it is damaged ({type(e).__name__}: {e})") from e
    if file is None:
        known = ", ".join(f"{name} {each[:12]}" for name, each in sorted(listed.items())) or "none"
        raise _NotTakenError(f"it lists other weights ({known}) than {weights} ({sha256[:12]})")
    return taken


def _without_folders(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of paths the last part: where things lay on the training machine says nothing of the build."""
    return {
        str(name): PurePath(value).name if isinstance(value, str) and "/" in value else value
        for name, value in values.items()
    }
