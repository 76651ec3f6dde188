"""One figure of a server, what is too much of it, and what to do then."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.diagnose.evidence import Missing


class Verdict(enum.StrEnum):
    """What follows from a reading."""

    FINE = "fine"
    BEYOND = "beyond"
    """The threshold: ``advice`` says what to do."""
    NOT_MEASURABLE = "not measurable here"
    """``advice`` says why, and what would give it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One figure with its threshold."""

    name: str
    value: str
    """Empty where it is not measurable."""
    threshold: str
    verdict: Verdict
    advice: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """What ``value`` says, with its units, for other programs."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"verdict": self.verdict.value}


def judged(
    name: str, value: str, *, threshold: str, is_beyond: bool, advice: str, figures: Mapping[str, float]
) -> Reading:
    """A figure that was measured."""
    verdict = Verdict.BEYOND if is_beyond else Verdict.FINE
    return Reading(name=name, value=value, threshold=threshold, verdict=verdict, advice=advice, figures=figures)


def unmeasurable(name: str, threshold: str, missing: Missing) -> Reading:
    """A figure that was not."""
    return Reading(name=name, value="", threshold=threshold, verdict=Verdict.NOT_MEASURABLE, advice=missing.reason)
