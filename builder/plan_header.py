"""What a serialized engine says of itself in its first bytes, read without TensorRT.

    offset  bytes
         0      4  "ftrt": a TensorRT plan; "vtrt": TensorRT-RTX's
         4      4  version of the layout, 0
        16      8  size of the whole plan
        24      4  version of the library: major, minor, patch, build

Numbers are little-endian. Tag, layout and version of a TensorRT plan are what NVIDIA's trtexec reads for
``--getPlanVersionOnly`` (samples/common/sampleEngines.cpp); its size is where Netron's reader expects it
(source/tensorrt.js). TensorRT-RTX 1.7's plans, compiled in the tests, have all of it at the same places, and their
runtime compares the size with the file's. A plan of TensorRT itself, which takes a GPU to build, was not at hand.
TensorRT before 8.6 began its plans with "ptrt" and a number in place of its version.
"""

from __future__ import annotations

import codecs
import enum
import json
import struct
from dataclasses import dataclass
from pathlib import Path

HEADER_BYTES = 28
FIRST_BYTES = 512
LAYOUT = 0
# Of what Ultralytics writes in front of an engine, more than any model's metadata takes.
MOST_METADATA_BYTES = 1 << 20
# No plan is larger; what claims to be is no size.
MOST_PLAN_BYTES = 1 << 44

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# ModelProto: ir_version, then producer_name, producer_version, domain, model_version, graph or opset_import.
_AFTER_IR_VERSION = frozenset(b"\x12\x1a\x22\x28\x3a\x42")


class PlanKind(enum.StrEnum):
    """What a file is."""

    TENSORRT = "TensorRT"
    TENSORRT_RTX = "TensorRT-RTX"
    OLD_TENSORRT = "TensorRT before 8.6"
    """It gives its serialization's number, not TensorRT's version."""
    NO_PLAN = "no plan"


_TAGS = {b"ftrt": PlanKind.TENSORRT, b"vtrt": PlanKind.TENSORRT_RTX, b"ptrt": PlanKind.OLD_TENSORRT}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanHeader:
    """A file's first bytes, understood."""

    kind: PlanKind
    description: str
    """What the file is, in a few words: ``a plan of TensorRT 10.13.3.9``, ``an ONNX file``."""
    file_bytes: int
    version: str | None = None
    """The library that built it: ``10.13.3.9``; None where the header does not tell."""
    metadata_bytes: int = 0
    """What stands in front of the plan, as Ultralytics writes it: a length and JSON."""
    recorded_bytes: int | None = None
    """The plan's size as it says itself; None where it does not."""

    @property
    def plan_bytes(self) -> int:
        """The size of the plan in the file, what stands in front of it left out."""
        return self.file_bytes - self.metadata_bytes

    @property
    def cut_short(self) -> bool:
        """Whether the file ends before the plan does."""
        header_only = self.kind is not PlanKind.NO_PLAN and self.plan_bytes < HEADER_BYTES
        return header_only or (self.recorded_bytes is not None and self.plan_bytes < self.recorded_bytes)


def read_plan_header(path: Path) -> PlanHeader:
    """The header of a plan, or what else the file is; no more than its first bytes are read.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(FIRST_BYTES)
        front = _metadata_bytes(first)
        if front and front <= size:
            file.seek(0)
            if _is_json(file.read(front)[4:]):
                return _header(file.read(HEADER_BYTES), size, front)
    return _header(first, size, 0)


def _header(first: bytes, size: int, front: int) -> PlanHeader:
    kind = _TAGS.get(first[:4], PlanKind.NO_PLAN)
    if kind is PlanKind.NO_PLAN:
        return PlanHeader(kind=kind, description=_what_else(first), file_bytes=size, metadata_bytes=front)
    version = recorded = None
    layout = struct.unpack_from("<I", first, 4)[0] if len(first) >= 8 else LAYOUT
    if kind is not PlanKind.OLD_TENSORRT and layout == LAYOUT and len(first) >= HEADER_BYTES:
        (recorded,) = struct.unpack_from("<Q", first, 16)
        version = ".".join(map(str, first[24:28]))
    return PlanHeader(
        kind=kind,
        description=f"a plan of {kind}{f' {version}' if version else ''}",
        file_bytes=size,
        version=version,
        metadata_bytes=front,
        recorded_bytes=recorded if recorded and recorded <= MOST_PLAN_BYTES else None,
    )


def _metadata_bytes(first: bytes) -> int:
    """How many bytes stand in front of the plan where the file begins with a length and a JSON object, else 0."""
    if len(first) < 5 or first[4:5] != b"{":
        return 0
    (length,) = struct.unpack_from("<i", first)
    return 4 + length if 2 <= length <= MOST_METADATA_BYTES else 0


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _what_else(first: bytes) -> str:
    """What a file is that is no plan."""
    kinds = {
        "empty": not first,
        "zeros": not any(first),
        "a Git LFS pointer in place of the file itself": first.startswith(_LFS_POINTER),
        "an ONNX file": len(first) > 2 and first[0] == 0x08 and first[1] < 0x40 and first[2] in _AFTER_IR_VERSION,
        "a zip archive, as PyTorch's checkpoints are": first.startswith(b"PK\x03\x04"),
        "text": _is_text(first),
    }
    return next((kind for kind, it_is in kinds.items() if it_is), f"unknown, it begins with {first[:4].hex(' ')}")


def _is_text(first: bytes) -> bool:
    try:
        # The last character may be cut.
        text = codecs.getincrementaldecoder("utf-8")().decode(first)
    except UnicodeDecodeError:
        return False
    return all(each.isprintable() or each in "\t\r\n" for each in text)
