"""The plan as one page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from benchmarks.capacity.plan import CapacityPlan, KindPlan
from benchmarks.capacity.request import CapacityRequest
from benchmarks.capacity.server_model import Source
from benchmarks.capacity.simulation import PERCENTILES, Outcome
from benchmarks.capacity.text import (
    confirmation_lines,
    decision,
    formula_lines,
    head,
    kind_rows,
    notes,
    scenario_header,
    scenario_rows,
)
from benchmarks.charts import Row, Series, bar_chart, line_chart
from builder.page import document, escaped, row, table

if TYPE_CHECKING:
    from benchmarks.capacity.confirm import Confirmation


def page(plan: CapacityPlan, command: str, confirmation: Confirmation | None = None) -> str:
    """HTML: the decision, the kinds side by side, and of each its scenarios and its day."""
    request = plan.request
    sections = [
        _verdict(plan),
        _list(confirmation_lines(request, confirmation) if confirmation else ()),
        _list(head(request)),
        "<h2>GPUs by kind</h2>",
        _gpus_chart(plan),
        _table(["", *(kind.kind.name for kind in plan.kinds)], kind_rows(plan)),
        _list(line for kind in plan.kinds for line in formula_lines(request, kind)),
        *(section for kind in plan.kinds if kind.outcomes for section in _kind_sections(request, kind)),
        "<h2>How it was found</h2>",
        _list(notes(plan)),
        f"<p><code>{escaped(command)}</code></p>",
    ]
    return document(f"Capacity for {request.streams} cameras at {request.fps:g} frames/s", sections)


def _verdict(plan: CapacityPlan) -> str:
    kind = "verdict" if plan.meets else "verdict failed"
    lines = "".join(f"<p>{escaped(line)}</p>" for line in decision(plan))
    return f'<div class="{kind}">{lines}</div>'


def _gpus_chart(plan: CapacityPlan) -> str:
    rows = [
        Row(
            name=f"{kind.kind.name}{', ESTIMATE' if kind.sized.server.source is Source.ESTIMATE else ''}",
            values=[kind.sized.gpus, kind.gpus_that_hold],
            ranges=[kind.sized.gpus_range, None],
        )
        for kind in plan.kinds
    ]
    return bar_chart(
        rows,
        ["by the formula", "with which the goal holds in every scenario"],
        x_label="GPUs",
        label="GPUs of each kind",
    )


def _kind_sections(request: CapacityRequest, kind: KindPlan) -> Iterable[str]:
    name, goal = f"{kind.planned} x {kind.kind.name}", f"goal, p{request.percentile}"
    yield f"<h2>{escaped(name)}</h2>"
    yield bar_chart(
        [Row(name=scenario, values=_percentiles(outcome)) for scenario, outcome in kind.outcomes.items()],
        [f"p{percent}" for percent in PERCENTILES],
        x_label="latency of the answered frames, ms",
        label=f"Latency percentiles of {name} by scenario",
        limit=request.sla_ms,
        limit_label=goal,
    )
    yield _table(scenario_header(request, kind), scenario_rows(kind))
    yield "<h3>A day</h3>"
    yield line_chart(
        [
            Series(name=f"p{percent}", points=_by_hour(kind.profile, percent), notes=_loads(request, kind))
            for percent in (50, request.percentile)
        ],
        x_label="hour of the day",
        y_label="latency, ms",
        label=f"Latency of {name} over a day",
        limit=request.sla_ms,
        limit_label=goal,
    )
    yield line_chart(
        [
            Series(
                name="arriving",
                points=[(hour, factor * request.images_per_s) for hour, (factor, _) in enumerate(kind.profile)],
            )
        ],
        x_label="hour of the day",
        y_label="images/s",
        label=f"Load of {name} over a day",
        limit=kind.sized.bounds.images_per_s * (kind.planned or 0),
        limit_label="all GPUs at full load",
    )


def _percentiles(outcome: Outcome) -> list[float | None]:
    return [(outcome.latency_ms or {}).get(percent) for percent in PERCENTILES]


def _by_hour(profile: Sequence[tuple[float, Outcome]], percent: int) -> list[tuple[float, float]]:
    return [(hour, outcome.latency_ms[percent]) for hour, (_, outcome) in enumerate(profile) if outcome.latency_ms]


def _loads(request: CapacityRequest, kind: KindPlan) -> list[str]:
    return [f"{factor * request.images_per_s:.0f} images/s" for factor, outcome in kind.profile if outcome.latency_ms]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return table(row(map(escaped, header), "th"), [[[escaped(cell) for cell in line] for line in rows]])


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""
