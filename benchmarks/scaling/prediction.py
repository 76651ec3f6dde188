"""The step of n workers from the step of one: computing as measured, sending by formula. Nothing here is measured.

    step(n) = step(1) + small exchanges(n) + gradients(n)

Small exchanges are those of synchronised batch norm and of the loss: each waits for the one before, none is hidden.
Gradients travel while backward goes on. How much of that hides behind it is not known beforehand, so there are two
figures: nothing hides, and as much as backward lasts. Left out are waiting for the slowest of n workers, the loading of
data, and what workers of one machine take from each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.scaling.links import Link, ring_all_reduce_s, small_all_reduce_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The step of one worker, and what it would exchange with others."""

    step_s: Mapping[int, float]
    """By images, at least one number of them."""
    backward_share: float
    """Of the step."""
    gradient_bytes: int
    """FP32 of every parameter that learns."""
    small_exchanges: int
    """Two for each batch norm and one for each criterion."""

    def step_of(self, images: float) -> float:
        """Seconds of one worker's step: measured, or on the line through the two nearest numbers of images."""
        known = sorted(self.step_s)
        if len(known) == 1:
            return self.step_s[known[0]] * images / known[0]
        low = max([each for each in known[:-1] if each <= images], default=known[0])
        high = known[known.index(low) + 1]
        slope = (self.step_s[high] - self.step_s[low]) / (high - low)
        # Below the least that was measured noise may tilt the line; no step is shorter than its share of images.
        least = self.step_s[known[0]] * min(1.0, images / known[0])
        return max(self.step_s[low] + slope * (images - low), least)


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """One number of workers on one link; seconds."""

    link: Link
    workers: int
    images: float
    """Of a step, of each worker."""
    alone_s: float
    """The step of one worker with these images."""
    small_s: float
    gradients_s: float
    hidden_s: float
    """Of them, what backward can hide."""

    @property
    def longest_s(self) -> float:
        """The step where nothing hides."""
        return self.alone_s + self.small_s + self.gradients_s

    @property
    def shortest_s(self) -> float:
        """The step where as much hides as backward lasts."""
        return self.longest_s - self.hidden_s

    def efficiency(self, one_worker_images_per_s: float) -> tuple[float, float]:
        """Images per second / (workers * those of one worker): where nothing hides, and where all can."""
        rates = (self.images / step_s for step_s in (self.longest_s, self.shortest_s))
        low, high = (rate / one_worker_images_per_s for rate in rates)
        return low, high

    @property
    def communication(self) -> tuple[float, float]:
        """The share of the step that computing waits for: where as much hides as can, and where nothing does."""
        return 1 - self.alone_s / self.shortest_s, 1 - self.alone_s / self.longest_s


def predict(workload: Workload, link: Link, workers: int, images: float) -> Predicted:
    """The step of ``workers`` with ``images`` each."""
    alone_s = workload.step_of(images)
    gradients_s = ring_all_reduce_s(link, workers, workload.gradient_bytes) if workers > 1 else 0.0
    return Predicted(
        link=link,
        workers=workers,
        images=images,
        alone_s=alone_s,
        small_s=workload.small_exchanges * small_all_reduce_s(link, workers) if workers > 1 else 0.0,
        gradients_s=gradients_s,
        hidden_s=min(gradients_s, workload.backward_share * alone_s),
    )
