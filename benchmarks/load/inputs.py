"""What perf_analyzer reads: pictures, and when to send them.

The files stay in the user's cache, named by their content, so that a command line that names them can be run by hand.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builder.cache import default_root
from builder.durable import replace_file
from clients.contract import INPUT


def write_input_data(images_PHWC: NDArray[np.uint8], *, input_name: str = INPUT, folder: Path | None = None) -> Path:
    """The pictures, which are sent in turn, for ``--input-data``."""
    steps = [
        {input_name: {"b64": base64.b64encode(image_HWC.tobytes()).decode(), "shape": list(image_HWC.shape)}}
        for image_HWC in images_PHWC
    ]
    return _written(json.dumps({"data": steps}).encode(), "json", folder)


def write_poisson_arrivals(rate_per_s: float, seconds: float, seed: int, folder: Path | None = None) -> Path:
    """The times between requests in microseconds, for ``--request-intervals``, which repeats them without end.

    There are exactly as many as the rate has in that time, so that the load is the one that was asked for.
    perf_analyzer's own draws are the same each time, and miss the rate where they are few: by a fifth in 20 s at 10/s.
    """
    count = max(1, round(rate_per_s * seconds))
    intervals_s = np.random.default_rng(seed).exponential(size=count)
    intervals_s *= count / rate_per_s / intervals_s.sum()
    return _written("".join(f"{round(each * 1e6)}\n" for each in intervals_s).encode(), "txt", folder)


def _written(content: bytes, suffix: str, folder: Path | None) -> Path:
    path = (folder or default_root() / "load-inputs") / f"{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    return path
