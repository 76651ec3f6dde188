"""How a network's activations are spread, and the range that INT8 shall cover.

A histogram holds absolute values, since TensorRT's INT8 is symmetric. Its range is a power of two and doubles by adding
neighbouring bins, so that memory stays flat and the order of the images does not matter.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from builder.errors import DataError

BINS = 4096
LEVELS = 128
"""Magnitudes of a symmetric INT8: 0 to 127."""
_SMALLEST_RANGE = 2.0**-14
_CANDIDATES = 200
_PERCENTILE = 99.99
_ENTROPY_BINS = 2048


class CalibrationMethod(enum.StrEnum):
    """How the range that INT8 covers is chosen from the values that were seen; what lies beyond is clipped."""

    ENTROPY = "entropy"
    """The least loss of information (Kullback-Leibler), as TensorRT's entropy calibration."""
    MAX = "max"
    """All that was seen."""
    PERCENTILE = "percentile"
    """99.99 % of what was seen."""
    MSE = "mse"
    """The least squared error of the histogram's values."""


@dataclass(slots=True, eq=False)
class Histogram:
    """Absolute values of one activation tensor."""

    counts: NDArray[np.int64]
    """[BINS], from 0 to ``limit``."""
    limit: float
    """A power of two."""
    largest: float
    """The largest value itself."""

    @classmethod
    def empty(cls) -> Histogram:
        """No values yet."""
        return cls(counts=np.zeros(BINS, np.int64), limit=_SMALLEST_RANGE, largest=0.0)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count the values of one batch, of any shape.

        Raises:
            ValueError: one of them is not finite.
        """
        magnitudes = np.abs(values.ravel())
        largest = float(magnitudes.max(initial=0.0))
        if not math.isfinite(largest):
            raise ValueError("not every value is finite")
        self.largest = max(self.largest, largest)
        while self.limit <= self.largest:  # a value at the limit itself would fall beyond the last bin
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros_like(merged)])
            self.limit *= 2
        magnitudes *= BINS / self.limit  # exact: both are powers of two
        bins = magnitudes.astype(np.int32)
        self.counts += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return (np.arange(BINS) + 0.5) * (self.limit / BINS)


def collect_histograms(
    path: Path, tensors: Sequence[str], batches: Iterable[NDArray[np.float32]], progress: Callable[[int], None]
) -> dict[str, Histogram]:
    """Run the graph on every batch and count the values of ``tensors``; one batch's values are in memory at a time.

    Args:
        path: the network's graph in FP32, input ``pixels``.
        tensors: names of activations in it.
        batches: FP32 [B, 3, H, W].
        progress: called after each batch with the number of images that are done.

    Raises:
        DataError: no images came, or an activation is not finite.
    """
    import onnx
    import onnxruntime as ort

    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # An arena keeps the largest block of every size that was ever asked for.
    options.enable_cpu_mem_arena = False
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    histograms = {name: Histogram.empty() for name in tensors}
    images = 0
    for pixels_BCHW in batches:
        for name, values in zip(tensors, session.run(list(tensors), {"pixels": pixels_BCHW}), strict=True):
            try:
                histograms[name].add(values)
            except ValueError as e:
                raise DataError(f"INT8's scales cannot be measured: {e} in {name} on the calibration images.") from e
        images += len(pixels_BCHW)
        progress(images)
    if not images:
        raise DataError("expected images to calibrate with, none came: INT8 would have arbitrary scales.")
    return histograms


def save_histograms(histograms: Mapping[str, Histogram], path: Path) -> None:
    """Write histograms as ``.npz``; equal histograms give equal bytes."""
    names = sorted(histograms)
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            names=np.array(names),
            counts=np.stack([histograms[name].counts for name in names]),
            limits=np.array([histograms[name].limit for name in names]),
            largest=np.array([histograms[name].largest for name in names]),
        )


def load_histograms(path: Path) -> dict[str, Histogram]:
    """What ``save_histograms`` wrote."""
    with np.load(path) as arrays:
        rows = zip(arrays["names"], arrays["counts"], arrays["limits"], arrays["largest"], strict=True)
        return {str(n): Histogram(counts=c, limit=float(li), largest=float(la)) for n, c, li, la in rows}


def covered_range(histogram: Histogram, method: CalibrationMethod) -> float:
    """The largest magnitude that INT8 shall represent; 0 for an activation that never was anything else."""
    if histogram.largest == 0:
        return 0.0
    match method:
        case CalibrationMethod.MAX:
            return histogram.largest
        case CalibrationMethod.PERCENTILE:
            return _percentile(histogram)
        case CalibrationMethod.MSE:
            return _least_squares(histogram)
        case CalibrationMethod.ENTROPY:
            return _least_divergence(histogram)


def _percentile(histogram: Histogram) -> float:
    cumulative = np.cumsum(histogram.counts)
    last = int(np.searchsorted(cumulative, cumulative[-1] * (_PERCENTILE / 100)))
    return min((last + 1) * (histogram.limit / BINS), histogram.largest)


def _least_squares(histogram: Histogram) -> float:
    """Of ranges from a tenth of the largest value up to it, the one with the least error when rounded and clipped."""
    filled = np.flatnonzero(histogram.counts)
    centres, counts = histogram.centres[filled], histogram.counts[filled].astype(np.float64)
    ranges = histogram.largest * np.linspace(0.1, 1.0, _CANDIDATES)
    errors = []
    for limit in ranges:
        scale = limit / (LEVELS - 1)
        rounded = np.minimum(np.rint(centres / scale), LEVELS - 1) * scale
        errors.append(float(counts @ np.square(rounded - centres)))
    return float(ranges[int(np.argmin(errors))])


def _least_divergence(histogram: Histogram) -> float:
    """TensorRT's entropy calibration: Migacz, "8-bit Inference with TensorRT" (GTC 2017).

    For each range the clipped distribution P, whose last bin takes what lies beyond, is compared with Q: the same bins
    squeezed into 128 levels, each level's count spread evenly over those of its bins that are not empty.
    """
    width = histogram.limit / BINS
    top = min(math.ceil(histogram.largest / width), BINS)
    # A fine histogram of mostly empty bins has no shape to compare; zeros are exact in INT8 at any scale.
    merge = max(1, top // _ENTROPY_BINS)
    padded = np.zeros(math.ceil(top / merge) * merge)
    padded[:top] = histogram.counts[:top]
    bins = padded.reshape(-1, merge).sum(axis=1)
    if len(bins) <= LEVELS:
        return histogram.largest
    bins[0] = bins[1]
    best, best_divergence = len(bins), math.inf
    for length in range(LEVELS, len(bins) + 1, 4):
        divergence = _divergence(bins, length)
        if divergence < best_divergence:
            best, best_divergence = length, divergence
    return min(best * merge * width, histogram.largest)


def _divergence(bins: NDArray[np.float64], length: int) -> float:
    clipped = bins[:length].copy()
    clipped[-1] += bins[length:].sum()
    level = np.minimum(np.arange(length) * LEVELS // length, LEVELS - 1)
    filled = bins[:length] > 0
    per_level = np.bincount(level, bins[:length], LEVELS)
    bins_per_level = np.bincount(level, filled, LEVELS)
    squeezed = np.where(filled, per_level[level] / np.maximum(bins_per_level[level], 1), 0.0)
    if not squeezed.sum():
        return math.inf
    p, q = clipped / clipped.sum(), squeezed / squeezed.sum()
    shared = (p > 0) & (q > 0)
    # Where Q has nothing and P has something, only the last bin can be: the clipped values on an empty bin.
    missing = float(p[(p > 0) & (q == 0)].sum())
    return float(np.sum(p[shared] * np.log(p[shared] / q[shared]))) + missing * math.log(1e6)
