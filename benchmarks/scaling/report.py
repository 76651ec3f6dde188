"""The figures of one run of ``python -m benchmarks scaling``, as JSON and as what is printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from benchmarks.figures import Spread
from benchmarks.machine import other_load_text
from benchmarks.scaling.prediction import Predicted, Workload
from benchmarks.tables import key_values, table

FEWER_IMAGES = "The step of fewer images than were measured is on the line through those that were."


class Kind(Enum):
    """What stays the same when workers are added."""

    WEAK = "the same batch for each"
    STRONG = "the batch shared"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Several workers, over all turns; seconds."""

    kind: Kind
    workers: int
    images: int
    """Of a step, of each worker."""
    alone_s: Spread
    """The step of one worker with as many images, with nothing beside it."""
    apart_s: Spread
    """The step beside the others, with nothing exchanged."""
    statistics_s: Spread
    """With batch norm and loss of the global batch, and waiting for the others that they bring."""
    step_s: Spread
    """With gradients too: the step of a training."""
    efficiency: Spread
    """Images per second / (workers * those of one worker with the whole batch), turn by turn."""
    communication: Spread
    """1 - apart / step."""
    all_reduce_s: Spread
    """Of all gradients at once, with nothing else going on."""
    hidden: Spread | None
    """1 - (step - statistics) / all-reduce: the share of the all-reduce that backward hides; below 0 none, and what
    is done for it costs more than it. None where the turns differ by more than the whole all-reduce."""

    @property
    def parts_s(self) -> Mapping[str, float]:
        """What the step is made of, of the medians."""
        return {
            "one worker alone": self.alone_s.median,
            "beside the others": self.apart_s.median - self.alone_s.median,
            "batch norm, loss, waiting": self.statistics_s.median - self.apart_s.median,
            "gradients": self.step_s.median - self.statistics_s.median,
        }

    @property
    def images_per_s(self) -> float:
        """Of all workers."""
        return self.workers * self.images / self.step_s.median


_DOUBTED = 0.25
"""An error of the formula from which on its predictions are doubted aloud."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """The prediction of what was measured, by the link that was measured."""

    measured: Measured
    predicted: Predicted

    @property
    def error(self) -> float:
        """Predicted with nothing hidden / measured - 1."""
        return self.predicted.longest_s / self.measured.step_s.median - 1

    @property
    def error_beside_others(self) -> float:
        """The same with what the workers of this machine take from each other, which the prediction leaves out."""
        taken = self.measured.apart_s.median - self.measured.alone_s.median
        return (self.predicted.longest_s + taken) / self.measured.step_s.median - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingReport:
    """All figures of one run."""

    start: str
    imgsz: int
    batch: int
    precision: str
    device: str
    threads: int | None
    """Of each worker on a CPU."""
    steps: int
    repeats: int
    workload: Workload
    one: Mapping[int, Spread]
    """The step of one worker by its images, seconds."""
    measured: tuple[Measured, ...]
    checks: tuple[Check, ...]
    predicted: tuple[Predicted, ...]
    """Each worker with the whole batch."""
    predicted_strong: tuple[Predicted, ...]
    """The batch shared, where it can be."""
    other_cpu_share: float
    """See ``machine.OtherLoad``."""
    environment: dict[str, str]

    @property
    def all_met(self) -> bool:
        """Nothing is promised."""
        return True

    @property
    def images_per_s(self) -> float:
        """Of one worker with the whole batch."""
        return self.batch / self.one[self.batch].median

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = dataclasses.asdict(self)
        for plain, measured in zip(values["measured"], self.measured, strict=True):
            plain |= {"kind": measured.kind.name.lower(), "images_per_s": measured.images_per_s}
        values["checks"] = [
            {
                "kind": each.measured.kind.name.lower(),
                "workers": each.measured.workers,
                "measured_s": each.measured.step_s.median,
                "error": each.error,
                "error_beside_others": each.error_beside_others,
                **self._plain(each.predicted),
            }
            for each in self.checks
        ]
        for name in ("predicted", "predicted_strong"):
            values[name] = [self._plain(each) for each in getattr(self, name)]
        return {"benchmark": "scaling", "version": 1, **values}

    def to_text(self) -> str:
        """What is printed."""
        parts = [
            self.what(),
            other_load_text(self.other_cpu_share),
            "",
            "MEASURED",
            self._measured_table(),
            *(["not told: the turns differ by more than the all-reduce takes"] if self._has_noise() else []),
            "",
            *self._check_lines(),
            "PREDICTED, not measured: the step of one worker as measured, exchanges by formula (ring all-reduce), the "
            "same link between all. From nothing hidden to all hidden that backward can hide. " + FEWER_IMAGES,
            self._predicted_table(),
            "",
            key_values(self.environment),
        ]
        return "\n".join(parts)

    def what(self) -> str:
        """What was measured, in a sentence or two."""
        threads = "" if self.threads is None else f", {self.threads} thread(s) each, one worker alike"
        megabytes = self.workload.gradient_bytes / 1e6
        return (
            f"{self.start} at {self.imgsz} pixels in {self.precision}, {self.device}{threads}; {self.repeats} turns of "
            f"{self.steps} steps each, every step an optimizer step. {megabytes:.1f} MB of gradients and "
            f"{self.workload.small_exchanges} small exchanges in a step; backward is "
            f"{self.workload.backward_share:.0%} of one worker's. Batches are loaded beforehand. In brackets lowest "
            "and highest."
        )

    def _has_noise(self) -> bool:
        return any(each.hidden is None for each in self.measured)

    def _measured_table(self) -> str:
        header = ("workers x images", "step ms", "images/s", "efficiency", "beside others ms", "batch norm, loss ms",
                  "gradients ms", "communication", "all-reduce ms", "hidden")  # fmt: skip
        rows = [
            (f"1 x {images}", _ms(spread), f"{images / spread.median:.2f}", "", "", "", "", "", "", "")
            for images, spread in self.one.items()
        ]
        for each in self.measured:
            _, beside, statistics, gradients = each.parts_s.values()
            rows.append(
                (
                    f"{each.workers} x {each.images}, {each.kind.value}",
                    _ms(each.step_s),
                    f"{each.images_per_s:.2f}",
                    _share(each.efficiency),
                    f"{1e3 * beside:+.1f}",
                    f"{1e3 * statistics:+.1f}",
                    f"{1e3 * gradients:+.1f}",
                    _share(each.communication),
                    _ms(each.all_reduce_s),
                    _share(each.hidden) if each.hidden else "not told",
                )
            )
        return table(header, rows)

    def _check_lines(self) -> tuple[str, ...]:
        if not self.checks:
            return ()
        header = (
            "workers x images",
            "link",
            "predicted ms",
            "measured ms",
            "error",
            "with what they take of each other",
        )
        rows = [
            (
                f"{each.measured.workers} x {each.measured.images}",
                str(each.predicted.link),
                f"{1e3 * each.predicted.longest_s:.1f}",
                f"{1e3 * each.measured.step_s.median:.1f}",
                f"{each.error:+.1%}",
                f"{each.error_beside_others:+.1%}",
            )
            for each in self.checks
        ]
        told = "PREDICTED against measured, by the link as measured here and nothing hidden behind backward"
        return told, table(header, rows), *self.doubts(), ""

    def doubts(self) -> tuple[str, ...]:
        """A warning where the formula misses what was measured."""
        worst = max((each.error_beside_others for each in self.checks), key=abs, default=0.0)
        if abs(worst) <= _DOUBTED:
            return ()
        return (
            f"WARNING: the formula misses what was measured by up to {worst:+.0%}, so read the predictions as the "
            "best that the link allows: workers that wait for each other at every batch norm are not in it.",
        )

    def _predicted_table(self) -> str:
        header = ("workers x images", "link", "step ms", "images/s", "efficiency", "communication", "all-reduce ms",
                  "small ms")  # fmt: skip
        rows = []
        for each in (*self.predicted, *self.predicted_strong):
            low, high = each.efficiency(self.images_per_s)
            least, most = each.communication
            rates = sorted(each.workers * each.images / step_s for step_s in (each.longest_s, each.shortest_s))
            rows.append(
                (
                    f"{each.workers} x {each.images:g}",
                    str(each.link),
                    f"{1e3 * each.longest_s:.1f}-{1e3 * each.shortest_s:.1f}",
                    f"{rates[0]:.1f}-{rates[1]:.1f}",
                    f"{low:.1%}-{high:.1%}",
                    f"{most:.1%}-{least:.1%}",
                    f"{1e3 * each.gradients_s:.2f}",
                    f"{1e3 * each.small_s:.2f}",
                )
            )
        return table(header, rows)

    def _plain(self, each: Predicted) -> dict[str, Any]:
        low, high = each.efficiency(self.images_per_s)
        steps = {"longest_s": each.longest_s, "shortest_s": each.shortest_s}
        return {**dataclasses.asdict(each), **steps, "efficiency": [low, high], "measured": False}


def _ms(spread: Spread) -> str:
    return f"{1e3 * spread.median:.1f} ({1e3 * spread.lowest:.1f}-{1e3 * spread.highest:.1f})"


def _share(spread: Spread) -> str:
    return f"{spread.median:.0%} ({spread.lowest:.0%} to {spread.highest:.0%})"
