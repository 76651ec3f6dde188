"""Files for tests that look like TensorRT plans at their beginning, and no more.

TensorRT builds plans on a GPU alone. These are a plan's header, laid out as ``builder.plan_header`` describes, with
filler behind it: nothing could run them.
"""

from __future__ import annotations

import struct
from pathlib import Path


def plan_with_filler(
    version: str = "10.13.3.9",
    *,
    size: int = 4096,
    tag: bytes = b"ftrt",
    layout: int = 0,
    recorded: int | None = None,
    seed: int = 0,
) -> bytes:
    """The header of a plan that TensorRT ``version`` built, then filler up to ``size`` bytes.

    ``recorded`` is the size that the header gives, by default the real one; ``seed`` tells one file from another.
    """
    numbers = [*map(int, version.split(".")), 0, 0, 0][:4]
    header = struct.pack("<4sIQQ4B", tag, layout, 2, size if recorded is None else recorded, *numbers)
    return header + bytes((seed + 31 * i) % 251 for i in range(size - len(header)))


def ultralytics_metadata(content: bytes = b'{"description": "a model", "stride": 32, "task": "detect"}') -> bytes:
    """What Ultralytics' export writes in front of an engine: the length of its metadata, and the metadata as JSON."""
    return struct.pack("<i", len(content)) + content


def compiled_plan(graph: Path, path: Path, compute_capability: str = "8.6") -> Path:
    """A real plan, of TensorRT-RTX, which compiles without a GPU."""
    from builder.artifacts import OnnxModel
    from builder.engine import Library, Profile, build_plan

    model = OnnxModel(path=graph, sha256="", inputs=(), outputs=())
    profiles = [Profile(batch_max=4, batch_opt=4)]
    build_plan(model, profiles, path, library=Library.TENSORRT_RTX, compute_capability=compute_capability)
    return path
