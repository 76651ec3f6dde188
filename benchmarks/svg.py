"""What charts are drawn of: axes, rows of bars, markers and hatches; their classes are those of ``builder.page``."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.axes import Axis
from builder.page import escaped

LOOKS = 6
"""Looks of lines and of bars that can be told apart, with or without their colours."""
WIDE, SMALL = (720, 300), (248, 170)
_RIGHT, _TOP, _BELOW = 30, 18, 44
_DIGIT, _LETTER = 6.4, 7.4
"""Widths of a digit and of a letter of the charts' 12 px type; letters on the safe side, fonts differ."""
_LONGEST_NAME = 34
THICK, GAP = 16, 12
_NUMBERS = 70
"""Room behind the bars for their values."""
_MARKERS = (
    "m-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
    "m-3.6,-3.6h7.2v7.2h-7.2z",
    "m0,-5.4l5.2,9h-10.4z",
    "m0,-5l5,5l-5,5l-5,-5z",
    "m0,5.4l5.2,-9h-10.4z",
    "m-4.5,-1.5h3v-3h3v3h3v3h-3v3h-3v-3h-3z",
)
_HATCHES = (
    "",
    "M-1,1l2,-2M0,6L6,0M5,7l2,-2",
    "M2,2h2v2h-2z",
    "M0,3H6",
    "M3,0V6",
    "M0,0L6,6M0,6L6,0",
)


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    """A line of text, if there is one; ``kind`` is a class of the page."""
    if not words:
        return ""
    classes = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{classes}>{escaped(words)}</text>'


def svg(width: float, height: float, label: str, parts: Sequence[str]) -> str:
    """A picture with a name for those who do not see it."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px" role="img" '
        f'aria-label="{escaped(label)}">{"".join(parts)}</svg>'
    )


def marker(look: int, x: float, y: float, title: str = "") -> str:
    """The sign of a series at one of its points."""
    told = f"<title>{escaped(title)}</title>" if title else ""
    return f'<path class="s{look} marker" d="M{x:.1f},{y:.1f}{_MARKERS[look]}">{told}</path>'


def line_swatch(look: int, *, has_line: bool, has_markers: bool) -> str:
    """How a series looks, for a legend."""
    line = f'<polyline class="s{look}" points="0,7 34,7"/>' if has_line else ""
    sign = marker(look, 17, 7) if has_markers else ""
    return f'<svg class="swatch" viewBox="0 0 34 14" aria-hidden="true">{line}{sign}</svg>'


def bar(look: int, box: tuple[float, float, float, float], chart: str, title: str = "") -> str:
    """A bar at x, y, of width and height, with its hatch; ``chart`` is the label of the chart that has the hatches."""
    x, y, width, height = box
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    hatch = f'<rect {place} fill="url(#{_hatch(look, chart)})"/>' if _HATCHES[look] else ""
    told = f"<title>{escaped(title)}</title>" if title else ""
    return f'<g>{told}<rect class="s{look}" {place}/>{hatch}</g>'


def bar_swatch(look: int, chart: str) -> str:
    """How a part of the bars looks, for a legend."""
    return f'<svg class="swatch" viewBox="0 0 34 14" aria-hidden="true">{bar(look, (6, 0, 22, 14), chart)}</svg>'


def hatches(looks: int, chart: str) -> str:
    """The definitions that the bars of this chart refer to."""
    patterns = (
        f'<pattern id="{_hatch(look, chart)}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<path class="hatch" d="{_HATCHES[look]}"/></pattern>'
        for look in range(looks)
        if _HATCHES[look]
    )
    return f"<defs>{''.join(patterns)}</defs>"


def _hatch(look: int, chart: str) -> str:
    # Several charts share a page, and the same inputs give the same bytes.
    return f"h{zlib.crc32(chart.encode()):08x}-{look}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The room between two axes."""

    x_axis: Axis
    y_axis: Axis
    size: tuple[int, int] = WIDE

    @property
    def left(self) -> int:
        """Where the x axis begins: right of the y axis' name and numbers."""
        return 30 + math.ceil(max(map(len, self.y_axis.labels())) * _DIGIT)

    @property
    def right(self) -> float:
        """Where the x axis ends."""
        return self.size[0] - _RIGHT

    @property
    def bottom(self) -> float:
        """Where the x axis lies."""
        return self.size[1] - _BELOW

    def x(self, value: float) -> float:
        """In the picture's units."""
        return self.left + self.x_axis.part(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        """In the picture's units, downwards."""
        return self.bottom - self.y_axis.part(value) * (self.bottom - _TOP)

    def grid(self, x_label: str, y_label: str) -> str:
        """Both axes with their ticks and names."""
        lines, words = [f"M{self.left},{self.bottom}H{self.right}"], []
        for tick, name in zip(self.y_axis.ticks, self.y_axis.labels(), strict=True):
            lines.append(f"M{self.left},{self.y(tick):.1f}H{self.right}")
            words.append(text(self.left - 7, self.y(tick) + 4, name, "end", "scale"))
        reached = 0.0
        for tick, name in zip(self.x_axis.ticks, self.x_axis.labels(), strict=True):
            x, half = self.x(tick), len(name) * _DIGIT / 2
            lines.append(f"M{x:.1f},{self.bottom}v4")
            # Ticks of a logarithmic axis lie close; a name that would touch the one before is left out.
            if x - half >= reached:
                words.append(text(x, self.bottom + 17, name, "middle", "scale"))
                reached = x + half + 6
        middle = (_TOP + self.bottom) / 2
        turned = f'transform="rotate(-90 13 {middle:g})"'
        words.append(text((self.left + self.right) / 2, self.size[1] - 6, x_label, "middle"))
        if y_label:
            words.append(f'<text x="13" y="{middle:g}" text-anchor="middle" {turned}>{escaped(y_label)}</text>')
        return f'<path class="grid" d="{"".join(lines)}"/>{"".join(words)}'

    def columns(self, named: Sequence[tuple[str, float]], amount: Callable[[float], str]) -> str:
        """A column for each name, side by side over the x axis."""
        step = (self.right - self.left) / len(named)
        # Names that would run into one another are left out; the pointer tells them.
        every = math.ceil((max(len(name) for name, _ in named) * _DIGIT + 4) / step)
        drawn, width = [], min(0.76 * step, 34)
        for number, (name, value) in enumerate(named):
            middle, top = self.left + (number + 0.5) * step, self.y(value)
            drawn.append(
                f'<rect class="s0" x="{middle - width / 2:.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{self.bottom - top:.1f}"><title>{escaped(f"{name}: {amount(value)}")}</title></rect>'
            )
            if number % every == 0:
                drawn.append(text(middle, self.bottom + 17, name, "middle", "scale"))
        return "".join(drawn)

    def across(self, value: float, name: str, points: Iterable[tuple[float, float]]) -> str:
        """A limit of y, named above its line at an end where none of the points, in values, lies on the name."""
        y, width = self.y(value), len(name) * _LETTER + 12
        taken = [self.x(point_x) for point_x, point_y in points if -8 < y - self.y(point_y) < 20]
        is_free = not any(x < self.left + width for x in taken) or any(x > self.right - width for x in taken)
        place = (self.left + 6.0, "start") if is_free else (self.right - 6.0, "end")
        line = f'<path class="limit" d="M{self.left},{y:.1f}H{self.right}"/>'
        return line + text(place[0], y - 5, name, place[1], "halo over")

    def told_above(self, name: str) -> str:
        """A limit that lies far above all values."""
        return text(self.left + 6, _TOP + 12, f"{name} ↑", kind="halo over")

    def upright(self, value: float, name: str) -> str:
        """A named value of x."""
        x = self.x(value)
        is_late = x > (self.left + self.right) / 2
        place = (x - 5, "end") if is_late else (x + 5, "start")
        return f'<path class="mark" d="M{x:.1f},{_TOP}V{self.bottom}"/>' + text(
            place[0], _TOP + 10, name, place[1], "halo"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Bars that lie, a row for each name, from the zero of one axis."""

    names: Sequence[str]
    axis: Axis
    pitch: float
    """From row to row."""

    @property
    def left(self) -> float:
        """Where the axis begins."""
        return 14 + min(max(map(len, self.names)), _LONGEST_NAME) * _LETTER

    @property
    def bottom(self) -> float:
        """Where the axis lies."""
        return _TOP + len(self.names) * self.pitch

    def x(self, value: float) -> float:
        """In the picture's units."""
        return self.left + self.axis.part(value) * (WIDE[0] - _NUMBERS - self.left)

    def y(self, row: int) -> float:
        """Where the first bar of a row begins."""
        return _TOP + row * self.pitch + GAP / 2

    def bar(self, look: int, y: float, span: tuple[float, float], chart: str, title: str) -> str:
        """From one value to another."""
        start, end = sorted(map(self.x, span))
        return bar(look, (start, y + 1, end - start, THICK - 2), chart, title)

    def whisker(self, y: float, span: tuple[float, float]) -> str:
        """Lowest and highest of a bar."""
        low, high = map(self.x, span)
        middle = y + THICK / 2
        return (
            f'<path class="whisker" d="M{low:.1f},{middle:g}H{high:.1f}M{low:.1f},{middle - 4:g}v8'
            f'M{high:.1f},{middle - 4:g}v8"/>'
        )

    def note(self, y: float, value: float, words: str, *, off: float | None = None) -> str:
        """Text behind a value; ``off`` is one whose line it does not lie on."""
        x = self.x(value) + 7
        line = None if off is None else self.x(off)
        if line is not None and x - 3 < line < x + len(words) * _DIGIT:
            x = line + 5
        return text(x, y + THICK / 2 + 4, words, kind="halo")

    def across(self, value: float, name: str) -> str:
        """A limit, named above its line."""
        x = self.x(value)
        return f'<path class="limit" d="M{x:.1f},{_TOP}V{self.bottom:g}"/>' + text(x, _TOP - 5, name, "middle", "over")

    def told_beyond(self, name: str) -> str:
        """A limit that lies far beyond all values."""
        return text(WIDE[0] - 4, _TOP - 5, f"{name} →", "end", "over")

    def svg(self, label: str, x_label: str, drawn: Sequence[str]) -> str:
        """The picture: names, axis, and what was drawn over them."""
        lines, words = [f"M{self.x(0):.1f},{_TOP}V{self.bottom:g}"], []
        for tick, name in zip(self.axis.ticks, self.axis.labels(), strict=True):
            lines.append(f"M{self.x(tick):.1f},{_TOP}V{self.bottom + 4:g}")
            words.append(text(self.x(tick), self.bottom + 17, name, "middle", "scale"))
        for number, name in enumerate(self.names):
            y = self.y(number) + (self.pitch - GAP) / 2 + 4
            shown = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
            words.append(
                f'<text x="{self.left - 8:.1f}" y="{y:.1f}" text-anchor="end">'
                f"<title>{escaped(name)}</title>{escaped(shown)}</text>"
            )
        middle = (self.left + WIDE[0] - _NUMBERS) / 2
        words.append(text(middle, self.bottom + _BELOW - 8, x_label, "middle"))
        grid = f'<path class="grid" d="{"".join(lines)}"/>'
        return svg(WIDE[0], self.bottom + _BELOW, label, [grid, *drawn, *words])
