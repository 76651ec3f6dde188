"""From what is asked for to a plan: for each kind of GPU how many, which bound binds, and what the simulation says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.capacity.formulas import price_per_stream_month
from benchmarks.capacity.from_report import ReportError, error_of
from benchmarks.capacity.known_cases import known_cases
from benchmarks.capacity.request import CapacityRequest, Kind
from benchmarks.capacity.search import fewest_that_hold, most_tried, outcomes_of
from benchmarks.capacity.simulation import Fleet, Outcome, Scenario, daily_profile
from benchmarks.capacity.sizing import Sized, size_kind


@dataclass(frozen=True, kw_only=True, slots=True)
class KindPlan:
    """What one kind of GPU comes to."""

    kind: Kind
    sized: Sized
    gpus_that_hold: int | None = None
    """The fewest, from the formula's number on, with which the goal holds in every scenario; None where none does."""
    outcomes: Mapping[Scenario, Outcome] = dataclasses.field(default_factory=dict)
    """With that many, or where none holds, with the formula's."""
    missed: tuple[Scenario, ...] = ()
    """In which the goal is missed with the formula's number."""
    profile: tuple[tuple[float, Outcome], ...] = ()
    """Of each hour of a day: the load as a factor of the mean, and what becomes of the frames."""
    why_not: str = ""
    """Why no number of them meets the goal."""
    report_error: ReportError | None = None
    price_per_stream_month: float | None = None

    @property
    def planned(self) -> int | None:
        """How many to plan with."""
        return self.gpus_that_hold or self.sized.gpus

    @property
    def meets(self) -> bool:
        """Whether some number of them meets the goal in every scenario."""
        return self.gpus_that_hold is not None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        server, batcher = self.sized.server, self.sized.batcher
        return {
            "gpu": self.kind.name,
            "source": server.source,
            "report": self.kind.origin or None,
            "estimate_error": self.sized.estimate_error,
            "report_error": None if self.report_error is None else dataclasses.asdict(self.report_error),
            "service_ms": {str(batch): each * 1e3 for batch, each in sorted(server.service_s.items())},
            "overhead_ms": server.overhead_s * 1e3,
            "batcher": dataclasses.asdict(batcher) | {"answers": batcher.answers.value},
            "bounds": self.sized.bounds.to_json(),
            "gpus": self.sized.gpus,
            "gpus_range": self.sized.gpus_range,
            "gpus_that_hold": self.gpus_that_hold,
            "meets": self.meets,
            "why_not": self.why_not,
            "missed_with_gpus": list(self.missed),
            "price_per_hour": self.kind.price_per_hour,
            "price_per_stream_month": self.price_per_stream_month,
            "scenarios": {scenario: outcome.to_json() for scenario, outcome in self.outcomes.items()},
            "daily_profile": [{"factor": factor} | outcome.to_json() for factor, outcome in self.profile],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class CapacityPlan:
    """The plans of all kinds."""

    request: CapacityRequest
    kinds: tuple[KindPlan, ...]

    @property
    def meets(self) -> bool:
        """Whether one kind at least meets the goal."""
        return any(kind.meets for kind in self.kinds)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        asked = {
            each.name: getattr(self.request, each.name)
            for each in dataclasses.fields(self.request)
            if each.name not in ("kinds", "graph")
        }
        return {
            "schema": "capacity/1",
            "request": asked | {"images_per_s": self.request.images_per_s},
            "meets": self.meets,
            "estimate_errors": [dataclasses.asdict(case) | {"error": case.error} for case in known_cases()],
            "gpus": [kind.to_json() for kind in self.kinds],
        }


def plan(request: CapacityRequest, progress: Callable[[str], None]) -> CapacityPlan:
    """The plan of each kind.

    Raises:
        SpecError: a kind has no figures that it could be sized by.
    """
    kinds = []
    for kind in request.kinds:
        progress(f"{kind.name}: sizing, and simulating the fleet")
        kinds.append(_plan_of(request, kind))
    return CapacityPlan(request=request, kinds=tuple(kinds))


def _plan_of(request: CapacityRequest, kind: Kind) -> KindPlan:
    sized = size_kind(request, kind)
    sized_alone = KindPlan(
        kind=kind,
        sized=sized,
        why_not=sized.why_none,
        report_error=None if kind.report is None else error_of(sized.server, kind.report),
    )
    return sized_alone if sized.gpus is None else _simulated(request, sized_alone, sized.gpus)


def _simulated(request: CapacityRequest, sized: KindPlan, gpus: int) -> KindPlan:
    """The plan with what the simulation says of it; ``gpus`` are the formula's."""
    fleet = Fleet(
        streams=request.streams,
        fps=request.fps,
        gpus=gpus,
        server=sized.sized.server,
        batcher=sized.sized.batcher,
        sla_s=request.sla_ms / 1e3,
        percentile=request.percentile,
        peak=request.peak,
        jitter_s=request.jitter_ms / 1e3,
        reconnect_s=request.reconnect_s,
        frames=request.frames,
        seed=request.seed,
    )
    outcomes = outcomes_of(fleet)
    missed = tuple(scenario for scenario, outcome in outcomes.items() if scenario.judged and not outcome.holds)
    why_not, holding = sized.why_not, None
    if not why_not:
        holding = fewest_that_hold(fleet) if missed else gpus
        if holding is None:
            why_not = f"with none of the numbers tried, up to {most_tried(fleet)}, does the goal hold in every scenario"
    if holding is not None and holding != gpus:
        fleet = dataclasses.replace(fleet, gpus=holding)
        outcomes = outcomes_of(fleet)
    price = sized.kind.price_per_hour
    return dataclasses.replace(
        sized,
        gpus_that_hold=holding,
        outcomes=outcomes,
        missed=missed,
        profile=tuple(daily_profile(fleet)),
        why_not=why_not,
        price_per_stream_month=None if price is None else price_per_stream_month(price, fleet.gpus, request.streams),
    )
