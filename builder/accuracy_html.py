"""``accuracy.html``: what a candidate loses against a reference, as one page that needs no other file and no network.

Class and file names come from data that anyone may have made: all of them go through ``escaped``, and the page's policy
lets nothing run or load. The same inputs give the same bytes.

Legend: R recall points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from builder.accuracy import OPERATING_IOU, AccuracyReport, Figures
from builder.charts import Stem, curve_axes, curve_chart, stem_chart
from builder.comparison import SAME_BOX_IOU, AccuracyDrop, Comparison, ConfidenceDrift
from builder.disagreements import pictures, place
from builder.durable import replace_file
from builder.gate import GateLimits, confidence_drop
from builder.page import definitions, document, escaped, figure, row, table

if TYPE_CHECKING:
    from builder.mixed import Mixture

CURVES = 100
"""Classes beyond it, those that lose least, have no curve on the page."""


def write_html(
    path: Path,
    *,
    title: str,
    reference: AccuracyReport,
    candidate: AccuracyReport,
    comparison: Comparison,
    limits: GateLimits,
    failures: Sequence[str],
    mixture: Mixture | None,
    facts: Mapping[str, str],
) -> None:
    """Write the page, whole or not at all; ``failures`` are the gate's, ``facts`` what else a reader should know.

    Raises:
        OSError: the file cannot be written.
    """
    sections = [
        _verdict(comparison, limits, failures),
        _facts(reference, candidate, facts),
        _accuracy(reference, candidate, comparison, limits),
        _drift(comparison, limits),
        _mixture(mixture) if mixture else "",
        _curves(reference, candidate, comparison),
        pictures(reference, candidate, comparison),
    ]
    replace_file(path, document(title, sections).encode())


def _verdict(comparison: Comparison, limits: GateLimits, failures: Sequence[str]) -> str:
    measured = (
        ("drop of mAP50-95", comparison.overall.map50_95, limits.max_map_drop),
        ("drop of the median confidence", confidence_drop(comparison.drift), limits.max_confidence_drop),
    )
    lines = [
        (name, figure(loss, 4), figure(limit, 4), "within" if _is_within(loss, limit) else '<b class="over">beyond</b>')
        for name, loss, limit in measured
    ]
    reasons = "".join(f"<li>{escaped(line)}</li>" for line in failures)
    told = (
        f"<p><strong>Gate failed.</strong> The candidate loses more than it may:</p><ul>{reasons}</ul>"
        if failures
        else "<p><strong>Gate passed.</strong> What the candidate loses is within the limits.</p>"
    )
    kind = "failed" if failures else "passed"
    return f'<section class="verdict {kind}">{told}{table(row(("", "measured", "limit", ""), "th"), [lines])}</section>'


def _is_within(loss: float | None, limit: float) -> bool:
    return loss is not None and loss <= limit


def _facts(reference: AccuracyReport, candidate: AccuracyReport, facts: Mapping[str, str]) -> str:
    data = reference.data
    split = f", {data.split}" if data.split else ""
    known = {
        "data": f"{data.source.name}{split}: {reference.images} images, {reference.overall.objects} objects",
        "operating threshold": f"confidence {reference.confidence:g}, IoU {OPERATING_IOU:g}",
    }
    unreadable = [place(each.path, data.source) for each in reference.unreadable]
    if unreadable:
        more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        known["left out"] = f"{', '.join(unreadable[:5])}{more}: cannot be read"
    return definitions(known | dict(facts))


def _accuracy(reference: AccuracyReport, candidate: AccuracyReport, comparison: Comparison, limits: GateLimits) -> str:
    groups = (("mAP50-95", 3), ("mAP50", 3), ("precision", 2), ("recall", 2), ("F1", 2))
    spans = "".join(f'<th colspan="{columns}" class="group">{name}</th>' for name, columns in groups)
    head = f'<tr><th rowspan="2"></th><th rowspan="2">objects</th>{spans}</tr>'
    # The first two columns are the first line's.
    head += row((*("ref", "cand", "drop") * 2, *("ref", "cand") * 3), "th")

    def cells(ours: Figures, theirs: Figures, drop: AccuracyDrop) -> tuple[str, ...]:
        values = [escaped(ours.name), str(ours.objects)]
        for name in ("map50_95", "map50"):
            loss = getattr(drop, name)
            values += [figure(getattr(ours, name)), figure(getattr(theirs, name)), _marked(loss, limits.max_map_drop)]
        for name in ("precision", "recall", "f1"):
            values += [figure(getattr(each.counts, name, None)) for each in (ours, theirs)]
        return tuple(values)

    lines = [
        [cells(reference.overall, candidate.overall, comparison.overall)],
        map(cells, reference.sizes, candidate.sizes, comparison.sizes),
        map(cells, reference.classes, candidate.classes, comparison.classes),
    ]
    return (
        "<h2>Accuracy</h2><p>ref: the reference; cand: the candidate; drop: reference minus candidate, marked where "
        f"it is more than {limits.max_map_drop:g}. Sizes by COCO’s limits of a box’s area: small below 32², large from "
        f"96² pixels. Precision, recall and F1 at confidence {reference.confidence:g}.</p>{table(head, lines)}"
    )


def _marked(loss: float | None, limit: float, shown: float | None = None) -> str:
    """A figure, marked where the loss is beyond the limit."""
    text = figure(loss if shown is None else shown)
    return text if loss is None or loss <= limit else f'<b class="over">{text}</b>'


def _drift(comparison: Comparison, limits: GateLimits) -> str:
    names = ("", "matched", "median", "5 %", "95 %", "median |drift|", "95 % |drift|", "fell below", "lost", "gained")

    def cells(drift: ConfidenceDrift) -> tuple[str, ...]:
        median = _marked(confidence_drop(drift), limits.max_confidence_drop, drift.median)
        spread = (drift.percentile_5, drift.percentile_95, drift.median_absolute, drift.percentile_95_absolute)
        counts = (drift.fell_below, drift.lost, drift.gained)
        return (escaped(drift.name), str(drift.matched), median, *map(figure, spread), *map(str, counts))

    lines = [[cells(comparison.drift)], map(cells, comparison.class_drifts)]
    return (
        "<h2>Confidence of the same boxes</h2><p>Candidate minus reference, over the reference’s boxes of the "
        "operating threshold and above that the candidate has as well (same class, IoU "
        f"{SAME_BOX_IOU:g}): below 0 is a loss, and the median is marked where it loses more than "
        f"{limits.max_confidence_drop:g}. Fell below: the candidate has them under the threshold; lost: it does not "
        "have them; gained: what it alone has at the threshold.</p>"
        f"{table(row(names, 'th'), lines)}"
    )


def _mixture(mixture: Mixture) -> str:
    lines, before = [], set[str]()
    for number, step in enumerate(mixture.steps):
        given_back = [name for name in step.given_back if name not in before]
        given_back += [f"not {name}" for name in sorted(before - set(step.given_back))]
        before = set(step.given_back)
        lines.append(
            (
                str(number),
                escaped(", ".join(given_back)) or "nothing",
                f"{100 * step.int8_share:.1f} %",
                figure(step.map50_95),
                figure(step.map_drop, 4),
                figure(step.confidence_drop, 4),
                figure(step.violation, 2),
                "passes" if step.passes else "fails",
            )
        )
    names = ("step", "given back to FP16", "INT8", "mAP50-95", "mAP drop", "confidence drop", "loss / limit", "")
    told = (
        "<h2>Layers given back to FP16</h2><p>INT8: share of the convolutions’ multiply-adds. Loss / limit: the worse "
        "of the two losses as a part of its limit; 1 or less passes.</p>"
        f"{table(row(names, 'th'), [lines], 'steps')}"
    )
    return told + _sensitivity(mixture) if mixture.sensitivities else told


def _sensitivity(mixture: Mixture) -> str:
    ordered = sorted(mixture.sensitivities, key=lambda each: (-each.violation_alone, each.group.name))
    stems = [
        Stem(
            name=each.group.name,
            note=f"{100 * each.group.share:.1f} %",
            value=each.violation_alone,
            chosen=each.group.name in mixture.exclude,
        )
        for each in ordered
    ]
    chart = stem_chart(stems, limit=1.0, label="Loss divided by its limit with one group of layers alone in INT8")
    return (
        "<h3>Sensitivity</h3><p>Loss / limit, on a subset of the images, with this group of layers alone in INT8: the "
        "longer the line, the more the group costs. Behind each name its share of the multiply-adds; filled: given "
        f"back in the result.</p>{chart}"
    )


def _curves(reference: AccuracyReport, candidate: AccuracyReport, comparison: Comparison) -> str:
    drops = {each.name: each for each in comparison.classes}
    names = [name for name in reference.curves if name in candidate.curves]
    shown = sorted(names, key=lambda name: -(drops[name].map50_95 or 0.0))[:CURVES]
    panels = [
        (
            "all, the mean",
            *(np.mean([report.curves[name] for name in names], axis=0) for report in (reference, candidate)),
        )
    ]
    panels += [(name, reference.curves[name], candidate.curves[name]) for name in shown]
    left_out = f" The {CURVES} that lose most of {len(names)} classes." if len(names) > CURVES else ""
    charts = "".join(
        f"<figure>{curve_chart(ours_R, theirs_R, f'Precision and recall of {name}')}<figcaption><b>{escaped(name)}</b> "
        f"{figure(float(ours_R.mean()))} → {figure(float(theirs_R.mean()))}</figcaption></figure>"
        for name, ours_R, theirs_R in panels
    )
    return (
        '<h2>Precision and recall</h2><p>At IoU 0.5; <span class="key ref">reference</span>, '
        '<span class="key cand">candidate</span>. The classes that lose most mAP50-95 come first; below each its '
        f'average precision.{left_out}</p>{curve_axes()}<div class="panels">{charts}</div>'
    )
