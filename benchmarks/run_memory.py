"""The memory that a run of a graph takes in onnxruntime: a child process of ``benchmarks.activations``.

``python -m benchmarks.run_memory GRAPH BATCH WAY`` prints the bytes on stdout. The ways:

``alive``: the first run, without onnxruntime's arena. Every tensor comes from the system and goes back when nothing
reads it any more: the peak is what the graph needs at one time.

``block``: the second run, with the arena and its memory pattern, as onnxruntime has them by default. The first run
learns the sizes; from then on all tensors lie in one block, and the peak is that block's size.

``first``: the first run with the arena. It takes a region for each tensor that fits no region that is free, and regions
never merge: the peak depends on the order in which sizes come.

The arena grows by what is asked for (kSameAsRequested; its default is powers of two, up to twice that much) and gives
all back after each run, so that the second peak holds nothing of the first.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import BuilderError, SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIVE, BLOCK, FIRST = "alive", "block", "first"
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# glibc keeps what is freed below this size for later, and raises the size as it sees fit: 64 KiB fixes it.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def run_memory_bytes(graph: Path, batch: int, way: str) -> int:
    """The peak of a run above the loaded model, in a fresh process.

    Raises:
        SpecError: this is not Linux, which alone can reset the peak of a process.
        BuilderError: the run failed; why is on stderr.
    """
    if not CLEAR.exists():
        raise SpecError(f"expected Linux, whose {CLEAR} resets a process's peak memory; there is none here.")
    command = [sys.executable, "-m", "benchmarks.run_memory", str(graph), str(batch), way]
    done = subprocess.run(command, env=os.environ | MALLOC, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BuilderError(
            f"expected {graph.name} to run at batch {batch}, got exit code {done.returncode}: see above."
        )
    return int(done.stdout)


def _measure(graph: str, batch: int, way: str) -> int:
    import onnxruntime as ort

    options, run = ort.SessionOptions(), ort.RunOptions()
    options.enable_cpu_mem_arena = options.enable_mem_pattern = way != ALIVE
    if way != ALIVE:
        run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    arena = {"arena_extend_strategy": "kSameAsRequested"}
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"], provider_options=[arena])
    (images,) = session.get_inputs()
    feed = {images.name: _ones((batch, *images.shape[1:]), images.type)}
    if way == BLOCK:
        session.run(None, feed, run)
    CLEAR.write_text("5")
    loaded = _status_bytes("VmRSS")
    session.run(None, feed, run)
    return _status_bytes("VmHWM") - loaded


def _ones(shape: tuple[int, ...], kind: str) -> NDArray[Any]:
    """Of memory that is touched: untouched pages of zeros would be counted as the run's when it reads them."""
    import numpy as np

    return np.ones(shape, np.uint8 if kind == "tensor(uint8)" else np.float32)


def _status_bytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("graph")
    parser.add_argument("batch", type=int)
    parser.add_argument("way", choices=(ALIVE, BLOCK, FIRST))
    given = parser.parse_args()
    print(_measure(given.graph, given.batch, given.way))
