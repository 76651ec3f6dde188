"""When requests come: sorted seconds from 0, FLOAT64 [N]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


def constant(rate_per_s: float, duration_s: float) -> Times:
    """One every ``1 / rate_per_s`` seconds, from 0 on."""
    _check(rate_per_s, duration_s)
    return np.arange(round(rate_per_s * duration_s)) / rate_per_s


def poisson(rate_per_s: float, duration_s: float, rng: np.random.Generator) -> Times:
    """At random, each independent of the others: what many independent users send."""
    _check(rate_per_s, duration_s)
    return np.sort(rng.uniform(0.0, duration_s, rng.poisson(rate_per_s * duration_s)))


def cameras(streams: int, fps: float, jitter_s: float, duration_s: float, rng: np.random.Generator) -> Times:
    """Frames of cameras: periodic each, its phase at random, and each frame late or early by its own jitter.

    ``jitter_s`` is the standard deviation of that jitter, which is normal; frames that it would move out of the
    duration come at its edge.
    """
    _check(fps, duration_s)
    if streams < 1 or jitter_s < 0:
        raise ValueError(f"expected one stream or more and a jitter from 0, got {streams} and {jitter_s}")
    frames = max(1, round(fps * duration_s))
    phases_S1 = rng.uniform(0.0, 1.0 / fps, (streams, 1))
    times_SF = phases_S1 + np.arange(frames) / fps
    if jitter_s:
        times_SF = times_SF + rng.normal(0.0, jitter_s, times_SF.shape)
    times: Times = np.sort(np.clip(times_SF.ravel(), 0.0, duration_s))
    return times


def _check(rate_per_s: float, duration_s: float) -> None:
    if not rate_per_s > 0 or not duration_s > 0:
        raise ValueError(f"expected a rate and a duration above 0, got {rate_per_s}/s for {duration_s} s")
