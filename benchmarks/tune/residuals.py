"""How far the model was off where it was measured, and so how far it may be off elsewhere.

A Gaussian process over the logarithm of measured / predicted (C. E. Rasmussen, C. K. I. Williams, Gaussian Processes
for Machine Learning, 2006, chapter 2), with a fixed kernel: what is learnt of a trial holds for those that are like it.

Legend: M measured trials, N trials asked about, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.tune.space import Trial

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """What is expected of the logarithm of measured / predicted, before anything is measured."""

    model: float
    """Standard deviation of the model's error, at least."""
    noise: float
    """Standard deviation between two measurements of the same trial."""


THROUGHPUT = Kernel(model=0.08, noise=0.015)
LATENCY = Kernel(model=0.15, noise=0.05)
_COMMON = 0.5
"""The part of the model's variance that all trials share."""


class Residuals:
    """Corrections learnt from measured trials."""

    def __init__(self, kernel: Kernel, trials: Sequence[Trial], logs: Sequence[float]) -> None:
        """``logs``: log(measured / predicted) of each trial."""
        # A machine that is shared, or a model that fits badly, shows in how far the errors lie apart.
        kernel = replace(kernel, model=max(kernel.model, float(np.std(logs))))
        self._kernel = kernel
        self._features_MF = _features(trials)
        covariance_MM = _covariance(kernel, self._features_MF, self._features_MF)
        covariance_MM[np.diag_indices(len(trials))] += kernel.noise**2
        self._inverse_MM = np.linalg.inv(covariance_MM)
        self._weights_M = self._inverse_MM @ np.array(logs)

    def at(self, trials: Sequence[Trial]) -> tuple[Floats, Floats]:
        """FLOAT64 [N] each: the expected log(true / predicted), and its standard deviation."""
        covariance_NM = _covariance(self._kernel, _features(trials), self._features_MF)
        variance_N = self._kernel.model**2 - np.einsum("nm,mk,nk->n", covariance_NM, self._inverse_MM, covariance_NM)
        return covariance_NM @ self._weights_M, np.sqrt(np.maximum(variance_N, 1e-12))


def _features(trials: Sequence[Trial]) -> Floats:
    """FLOAT64 [N, F], scaled so that trials that differ by 1 are about half alike."""
    return np.array(
        [
            (
                math.log2(trial.settings.max_batch) / 2,
                math.log2(trial.settings.instances) * 1.5,
                math.log2(1 + trial.settings.max_queue_delay_us / 1000) / 2,
                math.log2(trial.clients / trial.places) / 1.5,
            )
            for trial in trials
        ]
    )


def _covariance(kernel: Kernel, left_NF: Floats, right_MF: Floats) -> Floats:
    squared_NM = ((left_NF[:, None, :] - right_MF[None, :, :]) ** 2).sum(axis=2)
    alike: Floats = kernel.model**2 * (_COMMON + (1 - _COMMON) * np.exp(-squared_NM / 2))
    return alike
