"""The figures of one run of ``python -m benchmarks search``, as JSON and as what is printed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Spread, ratios
from benchmarks.machine import other_load_text
from benchmarks.tables import key_values, table

TARGET = 0.75
"""Of the time of one after the other, what trials side by side may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchReport:
    """All figures of one run; a figure per turn."""

    trials: int
    epochs: int
    at_once: int
    cpus_per_trial: int
    in_turn_s: tuple[float, ...]
    """From the command's start to its end, Ray's start and end included; one trial after the other."""
    side_by_side_s: tuple[float, ...]
    same: bool
    """Whether both arrangements have come to the same figures, every epoch of every trial."""
    other_cpu_share: float
    """What others used of the machine just before the turns; see ``machine.OtherLoad``."""
    environment: dict[str, str]

    @property
    def ratio(self) -> Spread:
        """side by side / one after the other, turn by turn."""
        return ratios(self.side_by_side_s, self.in_turn_s)

    @property
    def all_met(self) -> bool:
        """Whether the target is met, by the median, and the trainings are the same."""
        return self.ratio.median < TARGET and self.same

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        ratio = dataclasses.asdict(self.ratio)
        return {"benchmark": "search", "version": 1, **dataclasses.asdict(self), "ratio": ratio, "target": TARGET}

    def to_text(self) -> str:
        """What is printed."""
        turns = range(len(self.in_turn_s))
        rows = [
            ("one after the other", *(f"{value:.1f}" for value in self.in_turn_s)),
            (f"{self.at_once} side by side", *(f"{value:.1f}" for value in self.side_by_side_s)),
        ]
        same = "the same figures in every epoch" if self.same else "WARNING: other figures: they are not the same work"
        met = "met" if self.all_met else "MISSED"
        return "\n".join(
            [
                f"{self.trials} trials of {self.epochs} epochs, {self.cpus_per_trial} CPU(s) each, none stopped early; "
                "seconds of the whole command, Ray's start and end included.",
                "",
                table(("", *(f"turn {turn + 1}" for turn in turns)), rows),
                "",
                f"side by side / one after the other: {self.ratio} (target: under {TARGET}, {met}); {same}",
                other_load_text(self.other_cpu_share, "just before a turn"),
                "",
                key_values(self.environment),
            ]
        )
