"""On what and with what a report was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path

# Each is read where it is installed: an edition with another name has the same import name.
TOOLS = (
    "openvino",
    "tritonclient",
    "grpcio",
    "numpy",
    "onnx",
    "torch",
    "ultralytics",
    "ultralytics-opencv-headless",
    "opencv-python-headless",
    "pillow",
    "yolo-triton",
)


def environment(argv: Sequence[str], **more: str) -> dict[str, str]:
    """The rows of a report's last table; ``more`` comes first."""
    rows = dict(more)
    rows["CPU"] = _cpu_model()
    rows["cores"] = str(len(os.sched_getaffinity(0)))
    rows["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    rows["system"] = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    for tool in TOOLS:
        try:
            rows[tool] = importlib.metadata.version(tool)
        except importlib.metadata.PackageNotFoundError:
            continue
    rows["command"] = shlex.join(["python", "-m", "benchmarks", *argv])
    return rows


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
