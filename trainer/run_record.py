"""run.json: what a finished run was made from and what it made, for the builder's manifest to lead back to.

    {"schema": "run/1", "name", "data": {"hash", "names", "train", "val"}, "start": {...}, "arguments": {...},
     "epochs": 20, "steps": 2000, "seconds": 812.5, "parts": 2, "best": {"epoch", metrics}, "last": {...},
     "weights": {"best.pt": {"bytes", "sha256"}, ...}, "checkpoints": [{"file", "epoch", "step", "sha256"}],
     "versions": {...}}

It holds no path of the machine but names of files.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.durable import replace_file
from builder.manifest import record_of
from builder.training_run import FITNESS, RUN_RECORD, SCHEMA
from trainer.settings import MANNER, TrainSettings


def versions() -> dict[str, str]:
    """What the bits of a training depend on."""
    import numpy
    import torch
    import ultralytics

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "ultralytics": str(ultralytics.__version__),
        "numpy": str(numpy.__version__),
    }


def identifying(settings: TrainSettings) -> dict[str, Any]:
    """The arguments that make the run what it is; of paths the last part."""
    values = {name: value for name, value in settings.to_json().items() if name not in MANNER}
    values["teacher"] = str(settings.teacher) if settings.teacher else None
    return values | {name: Path(values[name]).name for name in ("weights", "model", "teacher") if values[name]}


def write_run_record(
    run: Path,
    *,
    settings: TrainSettings,
    data: Mapping[str, Any],
    start: Mapping[str, str],
    rows: Sequence[Mapping[str, float]],
    steps: int,
    seconds: float,
    parts: int,
) -> Path:
    """Write run.json, the last file of a run; its path."""
    validated = [row for row in rows if _fitness(row) is not None]
    best = max(validated, key=lambda row: (_fitness(row), -row["epoch"]), default=None)
    record = {
        "schema": SCHEMA,
        "name": run.name,
        "data": dict(data),
        "start": dict(start),
        "arguments": identifying(settings),
        "epochs": len(rows),
        "steps": steps,
        "seconds": round(seconds, 1),
        "parts": parts,
        "best": dict(best) if best else None,
        "last": dict(rows[-1]) if rows else None,
        "weights": {path.name: _record(path) for path in sorted((run / "weights").glob("*.pt"))},
        "checkpoints": [_checkpoint(path) for path in sorted((run / "checkpoints").glob("e*-s*.json"))],
        "versions": versions(),
    }
    path = run / RUN_RECORD
    replace_file(path, (json.dumps(record, indent=2) + "\n").encode())
    return path


def _fitness(row: Mapping[str, float]) -> float | None:
    return row.get(FITNESS)


def _record(path: Path) -> dict[str, Any]:
    record = record_of(path)
    return {"bytes": record.size_bytes, "sha256": record.sha256}


def _checkpoint(path: Path) -> dict[str, Any]:
    record = json.loads(path.read_bytes())
    meta = record["meta"]
    return {"file": record["file"], "epoch": meta["epoch"], "step": meta["step"], "sha256": record["sha256"]}
