"""The readings as they are printed and as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from benchmarks.diagnose.evidence import Evidence
from benchmarks.diagnose.gpu_readings import gap, gpu_readings
from benchmarks.diagnose.machine_readings import machine_readings, model_readings
from benchmarks.diagnose.reading import Reading, Verdict
from benchmarks.tables import key_values

_MARKS = {Verdict.FINE: "ok", Verdict.BEYOND: "BEYOND", Verdict.NOT_MEASURABLE: "-"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """Every reading of a server."""

    url: str
    duration_s: float
    readings: tuple[Reading, ...]
    environment: dict[str, str]

    @property
    def beyond(self) -> list[Reading]:
        """Those that ask for something to be done."""
        return [each for each in self.readings if each.verdict is Verdict.BEYOND]

    @property
    def all_met(self) -> bool:
        """Whether no threshold is passed."""
        return not self.beyond

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "benchmark": "diagnose",
            "version": 1,
            "url": self.url,
            "duration_s": self.duration_s,
            "readings": [each.to_json() for each in self.readings],
            "environment": self.environment,
        }

    def to_text(self) -> str:
        """What is printed."""
        width = max(len(mark) for mark in _MARKS.values())
        lines = [f"{self.url}, watched for {self.duration_s:.1f} s", ""]
        for each in self.readings:
            mark = _MARKS[each.verdict].ljust(width)
            if each.verdict is Verdict.NOT_MEASURABLE:
                lines.append(f"{mark}  {each.name}: not measurable here: {each.advice}")
                continue
            lines.append(f"{mark}  {each.name}: {each.value} (threshold: {each.threshold})")
            if each.verdict is Verdict.BEYOND:
                lines.append(f"{' ' * width}  -> {each.advice}")
        names = ", ".join(each.name for each in self.beyond)
        lines += ["", f"beyond its threshold: {names}" if names else "nothing measured is beyond its threshold"]
        return "\n".join([*lines, "", key_values(self.environment)])


def diagnosis(evidence: Evidence, environment: dict[str, str]) -> Diagnosis:
    """The three numbers first, then what a model's requests met, then the machine."""
    readings = [
        *gpu_readings(evidence),
        *(gap(model, evidence.duration_s) for model in evidence.models),
        *(reading for model in evidence.models for reading in model_readings(model, evidence.duration_s)),
        *machine_readings(evidence),
    ]
    return Diagnosis(
        url=evidence.url, duration_s=evidence.duration_s, readings=tuple(readings), environment=environment
    )
