"""Charts of a report as inline SVG, in the looks of ``builder.page``, light and dark.

Each gives one ``<figure>`` for ``page.document``. A marker, a dash or a hatch tells lines and parts apart besides
the colour; names are text, never markup. Values that are no finite numbers are left out; where none is left, a line of
text takes the chart's place.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from benchmarks import svg
from benchmarks.axes import Axis, linear_axis, log_axis
from builder.page import escaped

_MARKED = 40
"""Points of a series beyond which markers would hide the line."""
_FAR = 2.5
"""A limit so many times above all values is told, not drawn: it would press them flat."""


class Draw(enum.Enum):
    """How a series is drawn."""

    JOINED = "joined"
    POINTS = "points"
    LINE = "line"


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One line of a ``line_chart``."""

    name: str
    points: Sequence[tuple[float, float]]
    """x, y."""
    notes: Sequence[str] = ()
    """What a point is, one for each; told with its values where the pointer rests on it."""
    draw: Draw = Draw.JOINED


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of ``stacked_bars`` or ``bar_chart``."""

    name: str
    values: Sequence[float | None]
    """One per part, in the order of the parts; None where it was not measured."""
    ranges: Sequence[tuple[float, float] | None] = ()
    """Lowest and highest behind each value, drawn by ``bar_chart``."""


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    label: str,
    limit: float | None = None,
    limit_label: str = "",
    marks: Mapping[str, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """y over x of each series, in the order of its points; ``limit`` is a line across, ``marks`` are named x.

    A linear y axis has its 0; the x axis has it where the values do not all lie far from it. A logarithmic axis leaves
    out what is not above 0.
    """
    _require_looks(len(series))
    known = [_drawable(each, log_x, log_y) for each in series]
    xs, ys = [x for points in known for x, _, _ in points], [y for points in known for _, y, _ in points]
    if not xs:
        return _nothing(label)
    is_far = limit is not None and limit > _FAR * max(ys)
    wanted = ys if limit is None or is_far else [*ys, limit]
    upright = {name: x for name, x in (marks or {}).items() if math.isfinite(x)}
    spread = [*xs, *upright.values()]
    frame = svg.Frame(
        x_axis=log_axis(spread) if log_x else linear_axis(spread, from_zero=_is_near_zero(spread), most=8),
        y_axis=log_axis(wanted) if log_y else linear_axis(wanted, most=5),
    )
    drawn = [frame.grid(x_label, y_label), *(frame.upright(x, name) for name, x in upright.items())]
    if limit is not None:
        limit_label = limit_label or f"limit {amount(limit)}"
        drawn.append(
            frame.told_above(limit_label) if is_far else frame.across(limit, limit_label, zip(xs, ys, strict=True))
        )
    drawn += [_line(frame, look, each, known[look]) for look, each in enumerate(series)]
    swatches = [
        svg.line_swatch(look, has_line=each.draw is not Draw.POINTS, has_markers=_has_markers(each))
        for look, each in enumerate(series)
    ]
    picture = svg.svg(*frame.size, label, drawn)
    return _figure(picture, [each.name for each in series] if len(series) > 1 else (), swatches)


def stacked_bars(rows: Sequence[Row], parts: Sequence[str], *, x_label: str, label: str) -> str:
    """A bar for each row, of its parts one behind the other, with their sum at its end; values are 0 or more."""
    _require_looks(len(parts))
    if not any(_is_known(value) for row in rows for value in row.values):
        return _nothing(label)
    sums = [sum(value for value in row.values if _is_known(value)) for row in rows]
    bars = svg.Rows(names=[row.name for row in rows], axis=linear_axis(sums), pitch=svg.THICK + svg.GAP)
    drawn = [svg.hatches(len(parts), label)]
    for number, row in enumerate(rows):
        y, start = bars.y(number), 0.0
        for look, (part, value) in enumerate(zip(parts, row.values, strict=True)):
            if _is_known(value):
                title = f"{row.name}, {part}: {amount(value)}"
                drawn.append(bars.bar(look, y, (start, start + value), label, title))
                start += value
        drawn.append(bars.note(y, start, amount(start)))
    swatches = [svg.bar_swatch(look, label) for look in range(len(parts))]
    return _figure(bars.svg(label, x_label, drawn), parts, swatches)


def bar_chart(
    rows: Sequence[Row],
    parts: Sequence[str] = ("",),
    *,
    x_label: str,
    label: str,
    limit: float | None = None,
    limit_label: str = "",
) -> str:
    """A group of bars for each row, one per part from 0, its value at its end; ``limit`` is a line across all rows."""
    _require_looks(len(parts))
    known = [value for row in rows for value in row.values if _is_known(value)]
    if not known:
        return _nothing(label)
    known += [end for row in rows for span in row.ranges if span for end in span if _is_known(end)]
    is_far = limit is not None and limit > _FAR * max(known)
    wanted = known if limit is None or is_far else [*known, limit]
    pitch = svg.THICK * len(parts) + svg.GAP
    bars = svg.Rows(names=[row.name for row in rows], axis=linear_axis(wanted), pitch=pitch)
    drawn, notes = [svg.hatches(len(parts), label)], []
    for number, row in enumerate(rows):
        ranges = [*row.ranges, *[None] * (len(parts) - len(row.ranges))]
        for look, (part, value, span) in enumerate(zip(parts, row.values, ranges, strict=True)):
            y = bars.y(number) + look * svg.THICK
            if not _is_known(value):
                notes.append(bars.note(y, 0.0, "–"))
                continue
            title = f"{row.name}{', ' if part else ''}{part}: {amount(value)}"
            drawn.append(bars.bar(look, y, (0.0, value), label, title))
            if span:
                drawn.append(bars.whisker(y, span))
            notes.append(bars.note(y, max(0.0, value, *(span or ())), amount(value), off=None if is_far else limit))
    if limit is not None:
        limit_label = limit_label or f"limit {amount(limit)}"
        drawn.append(bars.told_beyond(limit_label) if is_far else bars.across(limit, limit_label))
    swatches = [svg.bar_swatch(look, label) for look in range(len(parts))]
    return _figure(bars.svg(label, x_label, [*drawn, *notes]), parts if len(parts) > 1 else (), swatches)


def column_chart(
    columns: Sequence[tuple[str, float]], *, x_label: str, y_label: str, label: str, high: float | None = None
) -> str:
    """A small histogram of named columns; those of equal ``high`` compare, side by side in ``<div class="panels">``."""
    known = [(name, value) for name, value in columns if _is_known(value)]
    if not known:
        return _nothing(label)
    heights = [value for _, value in known]
    frame = svg.Frame(
        x_axis=Axis(low=0, high=len(known), ticks=()),
        y_axis=linear_axis(heights if high is None else [*heights, high], most=4),
        size=svg.SMALL,
    )
    return _figure(svg.svg(*frame.size, label, [frame.grid(x_label, y_label), frame.columns(known, amount)]), (), ())


def amount(value: float) -> str:
    """A number with three digits that count, or all those before the point."""
    digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    # Adding 0 turns -0.0 into 0.0.
    written = f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")
    return written.rstrip("0").rstrip(".") if "." in written else written


def _is_known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _is_near_zero(values: Sequence[float]) -> bool:
    return 0 <= min(values) <= 0.75 * max(values) or 0 <= min(values) == max(values)


def _require_looks(wanted: int) -> None:
    if wanted > svg.LOOKS:
        raise ValueError(f"expected {svg.LOOKS} series or parts at most, which can be told apart, got {wanted}")


def _drawable(series: Series, log_x: bool, log_y: bool) -> list[tuple[float, float, str]]:
    """x, y and what is told of each point that has a place on the axes."""
    notes = series.notes or [""] * len(series.points)
    return [
        (x, y, note)
        for (x, y), note in zip(series.points, notes, strict=True)
        if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x) and (y > 0 or not log_y)
    ]


def _has_markers(series: Series) -> bool:
    return series.draw is Draw.POINTS or (series.draw is Draw.JOINED and len(series.points) <= _MARKED)


def _line(frame: svg.Frame, look: int, series: Series, points: Sequence[tuple[float, float, str]]) -> str:
    drawn = ""
    if series.draw is not Draw.POINTS:
        corners = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y, _ in points)
        drawn = f'<polyline class="s{look}" points="{corners}"><title>{escaped(series.name)}</title></polyline>'
    if _has_markers(series):
        drawn += "".join(
            svg.marker(look, frame.x(x), frame.y(y), f"{', '.join(filter(None, (series.name, note)))}: {_told(x, y)}")
            for x, y, note in points
        )
    return drawn


def _told(x: float, y: float) -> str:
    return f"{amount(y)} at {amount(x)}"


def _figure(picture: str, names: Sequence[str], swatches: Sequence[str]) -> str:
    """The chart under its legend; one series alone needs none."""
    entries = "".join(f"<li>{swatch}{escaped(name)}</li>" for name, swatch in zip(names, swatches, strict=False))
    legend = f'<ul class="legend">{entries}</ul>' if entries else ""
    return f'<figure class="chart">{legend}<div class="wide">{picture}</div></figure>'


def _nothing(label: str) -> str:
    return f'<figure class="chart"><p>{escaped(label)}: there are no figures.</p></figure>'
