"""Charts of an accuracy report as inline SVG; their colours are those of ``page.document``.

Legend: R recall points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from builder.coco import RECALLS_R
from builder.page import escaped, figure

_LEFT, _TOP, _WIDTH, _HEIGHT = 34, 8, 200, 140
_CURVE_BOX = f"0 0 {_LEFT + _WIDTH + 10} {_TOP + _HEIGHT + 34}"
_ROW, _NAMES, _STEMS, _VALUES = 20, 230, 360, 90
_LONGEST_NAME = 26


def curve_axes() -> str:
    """The axes that every ``curve_chart`` of the page refers to; the page has it once."""
    right, bottom = _LEFT + _WIDTH, _TOP + _HEIGHT
    lines, labels = [], []
    for part, label in ((0.0, "0"), (0.5, "0.5"), (1.0, "1")):
        x, y = _LEFT + part * _WIDTH, bottom - part * _HEIGHT
        lines.append(f"M{x:g},{_TOP}V{bottom}M{_LEFT},{y:g}H{right}")
        labels.append(f'<text x="{x:g}" y="{bottom + 14}" text-anchor="middle">{label}</text>')
        labels.append(f'<text x="{_LEFT - 5}" y="{y + 4:g}" text-anchor="end">{label}</text>')
    middle = _TOP + _HEIGHT / 2
    labels.append(f'<text x="{_LEFT + _WIDTH / 2:g}" y="{bottom + 28}" text-anchor="middle">recall</text>')
    labels.append(
        f'<text x="9" y="{middle:g}" text-anchor="middle" transform="rotate(-90 9 {middle:g})">precision</text>'
    )
    return (
        '<svg class="axes" aria-hidden="true"><defs><g id="axes">'
        f'<path d="{"".join(lines)}"/>{"".join(labels)}</g></defs></svg>'
    )


def curve_chart(reference_R: NDArray[np.float64], candidate_R: NDArray[np.float64], label: str) -> str:
    """Precision over recall of both graphs; ``label`` is for those who do not see it, as plain text."""
    return (
        f'<svg viewBox="{_CURVE_BOX}" role="img" aria-label="{escaped(label)}"><use href="#axes"/>'
        f'<polyline class="ref" points="{_points(reference_R)}"/>'
        f'<polyline class="cand" points="{_points(candidate_R)}"/></svg>'
    )


def _points(precision_R: NDArray[np.float64]) -> str:
    """The corners of a curve, in the chart's units."""
    xs = _LEFT + RECALLS_R * _WIDTH
    ys = (_TOP + _HEIGHT * (1 - np.clip(precision_R, 0, 1))).round(1)
    # Of a level stretch only the two ends are needed.
    level = np.concatenate([[False], (ys[1:-1] == ys[:-2]) & (ys[1:-1] == ys[2:]), [False]])
    return " ".join(f"{x:g},{y:g}" for x, y in zip(xs[~level], ys[~level], strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Stem:
    """One row of a ``stem_chart``."""

    name: str
    note: str
    """In small letters behind the name."""
    value: float
    """May be infinite."""
    chosen: bool


def stem_chart(stems: Sequence[Stem], *, limit: float, label: str) -> str:
    """A row for each stem, in the order given, from 0 to its value; ``limit``, above 0, is a line across all.

    A value that is infinite reaches to the end of the axis.
    """
    known = [stem.value for stem in stems if math.isfinite(stem.value)]
    low, high = min([0.0, *known]), max([limit, *known])

    def x_of(value: float) -> float:
        return _NAMES + 12 + (min(max(value, low), high) - low) / (high - low) * (_STEMS - 24)

    bottom = len(stems) * _ROW + 6
    x = f"{x_of(limit):.1f}"
    parts = [
        f'<path class="limit" d="M{x},4V{bottom}"/>'
        f'<text x="{x}" y="{bottom + 14}" text-anchor="middle" class="scale">limit</text>'
    ]
    for row, stem in enumerate(stems):
        y = row * _ROW + _ROW / 2 + 4
        start, end = f"{x_of(0):.1f}", f"{x_of(stem.value):.1f}"
        chosen = " chosen" if stem.chosen else ""
        parts.append(
            f'<g class="stem{chosen}"><title>{escaped(stem.name)}</title>'
            f'<text x="{_NAMES}" y="{y + 4:g}" text-anchor="end">{escaped(_short(stem.name))} '
            f'<tspan class="note">{escaped(stem.note)}</tspan></text>'
            f'<path d="M{start},{y:g}H{end}"/><circle cx="{end}" cy="{y:g}" r="4"/>'
            f'<text x="{_NAMES + _STEMS + 8}" y="{y + 4:g}">{figure(stem.value, 2)}</text></g>'
        )
    box = f"0 0 {_NAMES + _STEMS + _VALUES} {bottom + 20}"
    chart = f'<svg class="stems" viewBox="{box}" role="img" aria-label="{escaped(label)}">{"".join(parts)}</svg>'
    return f'<div class="wide">{chart}</div>'


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
