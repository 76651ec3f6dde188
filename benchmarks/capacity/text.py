"""The plan as it is printed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.capacity.bounds import COMPUTE, LATENCY, MEMORY, PCIE
from benchmarks.capacity.formulas import BUS_SHARE, HOURS_A_MONTH, amount, worked_out
from benchmarks.capacity.known_cases import error_lines
from benchmarks.capacity.plan import CapacityPlan, KindPlan
from benchmarks.capacity.request import CapacityRequest
from benchmarks.capacity.server_model import Source
from benchmarks.capacity.simulation import PERCENTILES, Scenario, pinned
from benchmarks.tables import table
from builder.memory import KEPT_FREE
from builder.service_time import service_time_ms, traffic_time_ms

if TYPE_CHECKING:
    from benchmarks.capacity.confirm import Confirmation


def to_text(plan: CapacityPlan, confirmation: Confirmation | None = None) -> str:
    """Everything, the decision at the end."""
    blocks = ["\n".join(head(plan.request)), table(["", *(kind.kind.name for kind in plan.kinds)], kind_rows(plan))]
    blocks.append("\n".join(line for kind in plan.kinds for line in formula_lines(plan.request, kind)))
    blocks += [table(scenario_header(plan.request, kind), scenario_rows(kind)) for kind in plan.kinds if kind.outcomes]
    blocks.append("\n".join(notes(plan)))
    if confirmation is not None:
        blocks.append("\n".join(confirmation_lines(plan.request, confirmation)))
    return "\n\n".join([*blocks, "\n".join(decision(plan))])


def head(request: CapacityRequest) -> list[str]:
    """What was asked for."""
    gbit_per_s = request.images_per_s * request.bytes_per_frame * 8 / 1e9
    return [
        f"{request.streams:,} cameras x {request.fps:g} frames/s = {amount(request.images_per_s)} images/s, "
        f"{amount(request.images_per_s * request.peak)} at the daily peak",
        f"goal: {request.percentile} % of the frames are answered within {request.sla_ms:g} ms; redundancy "
        f"{request.redundancy:g}",
        f"{request.bytes_per_frame / 1e6:.2f} MB a frame and its answer: {amount(gbit_per_s)} Gbit/s over network and "
        "buses",
    ]


def kind_rows(plan: CapacityPlan) -> list[list[str]]:
    """A line for each figure, a column for each kind."""
    rows: list[tuple[str, Callable[[KindPlan], str]]] = [
        ("figures", lambda kind: kind.sized.server.source),
        ("largest batch", lambda kind: str(kind.sized.bounds.batch)),
        ("instances", lambda kind: str(kind.sized.server.instances)),
        ("one image alone, ms", lambda kind: f"{kind.sized.bounds.alone_ms:.1f}"),
        ("at full load, ms", lambda kind: f"{kind.sized.bounds.full_load_ms:.1f}"),
        *((f"images/s by {name}", _by(name)) for name in (COMPUTE, MEMORY, PCIE, LATENCY)),
        ("what binds", lambda kind: _binds(plan.request, kind)),
        ("GPUs by the formula", lambda kind: _or_none(kind.sized.gpus)),
    ]
    if any(kind.sized.gpus_range for kind in plan.kinds):
        rows.append(("  off as the known cases", lambda kind: _range(plan.request, kind)))
    rows.append(("GPUs with which the goal holds", lambda kind: _or_none(kind.gpus_that_hold)))
    if any(kind.kind.price_per_hour for kind in plan.kinds):
        rows.append(("price per stream and month", _price))
    return [[name, *map(cell, plan.kinds)] for name, cell in rows]


def formula_lines(request: CapacityRequest, kind: KindPlan) -> list[str]:
    """The formula worked out, and why no number will do where none does."""
    lines = []
    if kind.sized.gpus is not None:
        rate = kind.sized.bounds.images_per_s
        streams = request.streams / kind.sized.gpus
        gbit_per_s = streams * request.fps * request.bytes_per_frame * 8 / 1e9
        lines.append(
            f"{kind.kind.name}: {worked_out(request.images_per_s, rate, request.redundancy)} "
            f"{_unit(kind)}, {streams:.1f} streams and "
            f"{gbit_per_s:.2f} Gbit/s each; {_binds(request, kind)} binds"
        )
    if kind.why_not:
        lines.append(f"{kind.kind.name}: the goal is not met: {kind.why_not}")
    elif kind.missed:
        lines.append(f"{kind.kind.name}: with {kind.sized.gpus} it is missed in: {', '.join(kind.missed)}")
    return lines


def scenario_header(request: CapacityRequest, kind: KindPlan) -> list[str]:
    """The names of the columns of ``scenario_rows``."""
    percentiles = [f"p{percent} ms" for percent in PERCENTILES]
    counts = ["frames", "refused", "lost"]
    return [f"{kind.planned} x {kind.kind.name}", "serve", *percentiles, *counts, f"in {request.sla_ms:g} ms", "goal"]


def scenario_rows(kind: KindPlan) -> list[list[str]]:
    """What becomes of the frames in each scenario."""
    rows = []
    for scenario, outcome in kind.outcomes.items():
        latency = outcome.latency_ms or {}
        told = [f"{latency[percent]:.1f}" if percent in latency else "-" for percent in PERCENTILES]
        verdict = ("holds" if outcome.holds else "missed") if scenario.judged else "-"
        counts = [str(count) for count in (outcome.frames, outcome.refused, outcome.lost)]
        rows.append([scenario, str(outcome.gpus), *told, *counts, f"{outcome.within:.2%}", verdict])
    return rows


def notes(plan: CapacityPlan) -> list[str]:
    """How the figures came about, and how far they can be trusted."""
    request, sources = plan.request, {kind.sized.server.source for kind in plan.kinds}
    lines = error_lines() if Source.ESTIMATE in sources else []
    for kind in plan.kinds:
        name = kind.kind.name
        if kind.kind.report is not None:
            off = f"; run against its points it is off by {kind.report_error}" if kind.report_error else ""
            lines.append(f"{name}: measured, {kind.kind.origin}{off}.")
            told = kind.kind.report.environment
            lines += [f"{name}: {what}: {each}" for what, each in told.items() if each.startswith("WARNING")]
            if kind.sized.estimate_error is not None:
                lines.append(f"{name}: the estimate of its images/s is off by {kind.sized.estimate_error:+.0%}.")
        elif kind.sized.server.source is Source.BY_HAND:
            shaped = len(kind.sized.server.service_s) > 1
            how = "batches have the estimate's shape" if shaped else "every image costs 1 / throughput, batched or not"
            lines.append(f"{name}: the throughput is by hand; {how}, since nothing else is known.")
    by_traffic = [kind.kind.name for kind in plan.kinds if _is_traffic(request, kind)]
    if by_traffic:
        lines.append(
            f"{', '.join(by_traffic)}: at the batch that is served the estimate is the activations' traffic at the "
            "memory's full bandwidth, caches aside, not the FLOPs: no known case tells how far off that is, and a GPU "
            "with a large cache may do far more."
        )
    if any(kind.sized.bounds.memory is None and kind.kind.gpu for kind in plan.kinds):
        lines.append("?: not known without the graph: --model or --weights.")
    if any(kind.kind.gpu and kind.kind.gpu.slice_of for kind in plan.kinds):
        lines.append("MIG slices: each counts as a GPU; a board that is lost takes all of its slices with it.")
    lines.append(
        f"Memory and buses are planned with {KEPT_FREE:.0%} and {1 - BUS_SHARE:.0%} kept free. At full load a request "
        "waits for the batch that runs and is computed with the next."
    )
    lines.append(
        f"Simulated: periodic cameras, jitter {request.jitter_ms:g} ms, each pinned to its GPU. {Scenario.LOST}: its "
        f"cameras are back on the others after {request.reconnect_s:g} s, judged is what comes to those from the loss "
        f"on. {Scenario.ROLLOUT}: half of the cameras on each, on every GPU at once, with no batch in common."
    )
    return lines


def _binds(request: CapacityRequest, kind: KindPlan) -> str:
    """The bound that is the least; of computing, which part of it."""
    binds = kind.sized.bounds.binds
    return "memory bandwidth" if binds == COMPUTE and _is_traffic(request, kind) else binds


def _is_traffic(request: CapacityRequest, kind: KindPlan) -> bool:
    """Whether the estimate of the batch that is served is that of the memory's bandwidth."""
    gpu, graph, batch = kind.kind.gpu, request.graph, kind.sized.bounds.batch
    if gpu is None or graph is None or kind.sized.server.source is not Source.ESTIMATE:
        return False
    return traffic_time_ms(graph.cost, gpu, batch) >= (service_time_ms(graph.cost, gpu, batch) or math.inf)


def confirmation_lines(request: CapacityRequest, confirmation: Confirmation) -> list[str]:
    """What a real server made of one GPU's share, beside the simulation of the same frames."""
    measured, simulated = confirmation.measured_ms, confirmation.simulated_ms
    pairs = [
        f"p{percent} {measured[percent]:.1f} (simulated {simulated[percent]:.1f}, "
        f"{simulated[percent] / measured[percent] - 1:+.0%})"
        for percent in sorted(measured.keys() & simulated.keys())
    ]
    verdict = "holds" if confirmation.holds else "is missed"
    lines = [
        f"Confirmed on {confirmation.url}, {confirmation.streams} cameras for {request.confirm_s:g} s, "
        f"{confirmation.frames} frames, {confirmation.failed} failed, ms: {', '.join(pairs) or 'none was answered'}.",
        f"{confirmation.within:.2%} within {request.sla_ms:g} ms: the goal {verdict} there.",
    ]
    if confirmation.server_batch != confirmation.planned_batch:
        lines.append(
            f"That server takes batches up to {confirmation.server_batch}, the plan is of {confirmation.planned_batch}."
        )
    return lines


def decision(plan: CapacityPlan) -> list[str]:
    """What to buy."""
    request, meeting = plan.request, [kind for kind in plan.kinds if kind.meets]
    if not meeting:
        return [f"No kind meets the goal of {request.sla_ms:g} ms in every scenario."]
    lines = [_plan_line(request, kind) for kind in meeting]
    priced = [kind for kind in meeting if kind.price_per_stream_month is not None]
    if len(priced) > 1:
        best = min(priced, key=lambda kind: kind.price_per_stream_month or 0.0)
        lines.append(f"Cheapest: {best.planned} x {best.kind.name}.")
    return lines


def _plan_line(request: CapacityRequest, kind: KindPlan) -> str:
    assert kind.planned is not None
    most = max(pinned(request.streams, kind.planned))
    line = f"Plan: {kind.planned} x {kind.kind.name}, up to {most} streams on each"
    if kind.kind.price_per_hour is not None:
        total = kind.kind.price_per_hour * kind.planned * HOURS_A_MONTH
        line += f", {total:,.0f} a month, {kind.price_per_stream_month:,.2f} a stream"
    return f"{line} ({kind.sized.server.source})."


def _unit(kind: KindPlan) -> str:
    return ("GPU" if kind.kind.gpu else "server") + ("" if kind.sized.gpus == 1 else "s")


def _by(bound: str) -> Callable[[KindPlan], str]:
    def cell(kind: KindPlan) -> str:
        value = kind.sized.bounds.by_name()[bound]
        return ("?" if bound == MEMORY and kind.kind.gpu else "-") if value is None else f"{value:,.0f}"

    return cell


def _range(request: CapacityRequest, kind: KindPlan) -> str:
    if kind.sized.gpus_range is None:
        return "-"
    # The known cases are of single images, whose time is launches and FLOPs.
    return "not known" if _is_traffic(request, kind) else "{}-{}".format(*kind.sized.gpus_range)


def _price(kind: KindPlan) -> str:
    return "-" if kind.price_per_stream_month is None else f"{kind.price_per_stream_month:,.2f}"


def _or_none(count: int | None) -> str:
    return "none" if count is None else str(count)
