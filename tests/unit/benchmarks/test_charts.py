"""Charts: round ticks, honest places, names as text, looks that do not rely on colour, and how a browser draws them."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.axes import linear_axis, log_axis
from benchmarks.charts import Draw, Row, Series, amount, bar_chart, column_chart, line_chart, stacked_bars
from builder.page import document
from tests.browser import open_page

HOSTILE = '<b onclick="x">&\''
AXES = {"x_label": "x", "y_label": "y", "label": "chart"}


def series(name: str, *points: tuple[float, float], **options) -> Series:
    return Series(name=name, points=points, **options)


def elements(figure: str, kind: str) -> list[dict[str, str]]:
    """The attributes of the drawn elements; the figure has to be well-formed."""
    return [each.attrib for each in ElementTree.fromstring(figure).iter(kind)]


def lines(figure: str) -> list[list[tuple[float, float]]]:
    drawn = [each for each in elements(figure, "polyline") if each["points"] != "0,7 34,7"]
    return [[tuple(map(float, corner.split(","))) for corner in each["points"].split()] for each in drawn]


def bars(figure: str) -> list[dict[str, float]]:
    (chart,) = (each for each in ElementTree.fromstring(figure).iter("svg") if "role" in each.attrib)
    return [
        {name: float(each.attrib[name]) for name in ("x", "y", "width", "height")}
        for each in chart.iter("rect")
        if "class" in each.attrib
    ]


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((3, 97), ("0", "20", "40", "60", "80", "100")),
        ((0.0, 0.7), ("0.0", "0.2", "0.4", "0.6", "0.8")),
        ((1200, 6400), ("0", "2,000", "4,000", "6,000", "8,000")),
        ((0.25, 1.4), ("0.00", "0.25", "0.50", "0.75", "1.00", "1.25", "1.50")),
        ((-3, 3), ("−3", "−2", "−1", "0", "1", "2", "3")),
        ((0,), ("0", "1")),
        ((0.5, 1.0), ("0.0", "0.2", "0.4", "0.6", "0.8", "1.0")),
        ((1, 14), ("0", "5", "10", "15")),
    ],
)
def test_ticks_are_round(values, ticks):
    assert linear_axis(values).labels() == ticks


@given(
    st.lists(st.integers(-99, 99) | st.floats(-1e9, 1e9).map(lambda value: round(value, 6)), min_size=1, max_size=8),
    st.booleans(),
    st.integers(2, 10),
)
def test_every_value_lies_between_the_ticks(values, from_zero, most):
    assume(len({*values}) == 1 or max(values) - min(values) > 1e-6 * max(map(abs, values)))
    axis = linear_axis(values, from_zero=from_zero, most=most)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(values) <= max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= most + 1
    assert len(set(axis.labels())) == len(axis.ticks)
    assert not from_zero or axis.low <= 0 <= axis.high


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=8))
def test_every_value_lies_between_the_ticks_of_powers(values):
    axis = log_axis(values)
    assert axis.low <= min(values) * (1 + 1e-6)
    assert axis.high >= max(values) * (1 - 1e-6)
    assert axis.part(axis.low) == 0
    assert axis.part(axis.high) == 1


def test_ticks_of_powers_are_named_in_full():
    assert log_axis([0.03, 8]).labels() == ("0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10")
    assert log_axis([20, 30000]).labels() == ("10", "100", "1,000", "10,000", "100,000")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.04567, "0.0457"), (3.456, "3.46"), (45.0, "45"), (1234.5, "1,234"), (-0.5, "−0.5"), (99.96, "100")],
)
def test_amounts_have_three_digits_that_count(value, text):
    assert amount(value) == text


def test_a_line_goes_through_its_points_in_their_order():
    (corners,) = lines(line_chart([series("a", (0, 0), (10, 50), (5, 100))], **AXES))
    (x0, y0), (x10, y50), (x5, y100) = corners
    assert x5 == pytest.approx((x0 + x10) / 2, abs=0.1)
    assert y50 == pytest.approx((y0 + y100) / 2, abs=0.1)
    assert x0 < x10
    assert y0 > y100


def test_powers_of_ten_lie_evenly_on_a_logarithmic_axis():
    (corners,) = lines(
        line_chart([series("a", (1, 1), (10, 10), (100, 100), (1000, 0))], **AXES, log_x=True, log_y=True)
    )
    assert len(corners) == 3
    assert corners[1][0] - corners[0][0] == pytest.approx(corners[2][0] - corners[1][0], abs=0.2)


def test_a_limit_lies_where_its_value_does():
    figure = line_chart([series("a", (0, 10), (1, 40))], **AXES, limit=40, limit_label="goal")
    (limit,) = re.findall(r'class="limit" d="M\d+,([\d.]+)H', figure)
    assert float(limit) == lines(figure)[0][1][1]
    assert ">goal</text>" in figure


@pytest.mark.parametrize("chart", ["line", "bar"])
def test_a_limit_far_above_all_values_is_told_and_does_not_press_them_flat(chart):
    if chart == "line":
        figure = line_chart([series("a", (0, 10), (1, 40))], **AXES, limit=4000, limit_label="goal")
    else:
        figure = bar_chart([Row(name="a", values=(10,))], x_label="x", label="chart", limit=4000, limit_label="goal")
    assert 'class="limit"' not in figure
    assert re.search(r">goal [↑→]</text>", figure)


def test_a_limit_is_named_where_no_point_lies():
    ends = [
        re.search(r'text-anchor="(\w+)" class="halo over"', line_chart([series("a", *points)], **AXES, limit=40))[1]
        for points in (((0, 10), (9, 40)), ((0, 41), (9, 10)), ((0, 10), (9, 10)))
    ]
    assert ends == ["start", "end", "start"]


def test_the_parts_of_a_stacked_bar_follow_each_other_and_sum_up():
    figure = stacked_bars([Row(name="a", values=(10, None, 30))], ("p", "q", "r"), x_label="ms", label="chart")
    first, second = bars(figure)
    assert second["x"] == pytest.approx(first["x"] + first["width"], abs=0.1)
    assert second["width"] == pytest.approx(3 * first["width"], rel=0.01)
    assert ">40</text>" in figure
    assert "<title>a, r: 30</title>" in figure


def test_bars_are_as_long_as_their_values_and_show_their_range():
    rows = [Row(name="a", values=(10, 20), ranges=((5, 25), None)), Row(name="b", values=(None, 40))]
    figure = bar_chart(rows, ("p", "q"), x_label="ms", label="chart")
    widths = [each["width"] for each in bars(figure)]
    assert [width / widths[0] for width in widths] == pytest.approx([1, 2, 4], rel=0.01)
    assert figure.count('class="whisker"') == 1
    assert ">–</text>" in figure


def test_the_value_of_a_bar_lies_on_no_limit():
    figure = bar_chart([Row(name="a", values=(9.9,))], x_label="ms", label="chart", limit=10)
    ((line,), (value,)) = (re.findall(f, figure) for f in (r'"limit" d="M([\d.]+),', r'x="([\d.]+)"[^>]*>9.9<'))
    assert float(value) > float(line)
    assert ">limit 10</text>" in figure


def test_a_bar_below_zero_points_the_other_way():
    figure = bar_chart([Row(name="a", values=(10,)), Row(name="b", values=(-10,))], x_label="ms", label="chart")
    up, down = bars(figure)
    assert up["width"] == pytest.approx(down["width"])
    assert down["x"] + down["width"] == pytest.approx(up["x"], abs=0.1)


def test_columns_of_one_height_compare():
    def tallest(high: float | None) -> float:
        figure = column_chart([("1", 10), ("2", 20)], x_label="x", y_label="%", label="chart", high=high)
        return max(each["height"] for each in bars(figure))

    assert tallest(100) == pytest.approx(tallest(None) / 5, rel=0.02)


def test_names_are_text():
    figures = (
        line_chart([series(HOSTILE, (1, 1), notes=(HOSTILE,)), series("b", (1, 1))], x_label=HOSTILE, y_label=HOSTILE,
                   label=HOSTILE, limit=1, limit_label=HOSTILE, marks={HOSTILE: 1}),
        stacked_bars([Row(name=HOSTILE, values=(1,))], [HOSTILE], x_label=HOSTILE, label=HOSTILE),
        bar_chart([Row(name=HOSTILE, values=(1, 2))], [HOSTILE, "b"], x_label=HOSTILE, label=HOSTILE, limit=1,
                  limit_label=HOSTILE),
        column_chart([(HOSTILE, 1)], x_label=HOSTILE, y_label=HOSTILE, label=HOSTILE),
    )  # fmt: skip
    for figure in figures:
        assert "<b" not in figure
        assert next(each for each in elements(figure, "svg") if "role" in each)["aria-label"] == HOSTILE


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_without_a_value_a_line_of_text_takes_the_charts_place(value):
    rows = [Row(name="a", values=(value,))]
    figures = [
        stacked_bars(rows, ("p",), x_label="x", label="the chart"),
        bar_chart(rows, x_label="x", label="the chart"),
    ]
    if value is not None:
        figures.append(line_chart([series("a", (1, value))], x_label="x", y_label="y", label="the chart"))
        figures.append(column_chart([("a", value)], x_label="x", y_label="y", label="the chart"))
    for figure in figures:
        assert "the chart: there are no figures." in figure
        assert "<svg" not in figure


def test_more_than_can_be_told_apart_is_refused():
    with pytest.raises(ValueError, match="6 series or parts at most"):
        line_chart([series(str(number), (1, 1)) for number in range(7)], **AXES)


def test_every_look_differs_in_more_than_its_colour():
    figure = line_chart([series(str(number), (1, 1), (2, 2)) for number in range(6)], **AXES)
    shapes = {re.sub(r"^M[\d.,]+", "", each["d"]) for each in elements(figure, "path") if "marker" in each["class"]}
    assert len(shapes) == 6
    parts = stacked_bars([Row(name="a", values=range(1, 7))], list("pqrstu"), x_label="x", label="chart")
    hatches = [each["d"] for each in elements(parts, "path") if each["class"] == "hatch"]
    # The first has none.
    assert len(set(hatches)) == 5
    style = document("", ())
    dashes = re.findall(r"polyline\.s\d\{stroke-dasharray:([\d ]+)\}", style)
    assert len(set(dashes)) == 5


def luminance(colour: str) -> float:
    """Of WCAG 2.2."""
    pairs = re.findall("..", colour * 2 if len(colour) == 3 else colour)
    parts = [int(pair, 16) / 255 for pair in pairs]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_stands_out_from_the_paper_in_light_and_dark():
    schemes = re.findall(r":root\{([^}]*)\}", document("", ()))
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+):#([0-9a-f]+)", scheme))
        # WCAG 2.2: 4.5 for text (1.4.3), 3 for lines and bars (1.4.11).
        pairs = [(name, paper, 4.5) for name in ("ink", "dim", "good", "bad") for paper in ("paper", "soft")]
        pairs += [(name, "paper", 3) for name in ("ref", "cand", *(f"c{look}" for look in range(6)))]
        for name, paper, least in pairs:
            low, high = sorted((luminance(colours[name]), luminance(colours[paper])))
            assert (high + 0.05) / (low + 0.05) >= least, (name, paper)


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_a_browser_draws_them_with_nothing_cut_off_or_on_another(tmp_path, width, dark):
    curve = [(rate, 20 + 300 * (rate / 50) ** 9) for rate in (9.8, 19.6, 31, 44, 47.5, 48)]
    rows = [Row(name=f"{count} at a time", values=[count * part for part in range(6)]) for count in (1, 2, 4, 1000)]
    names = [f"part {number}" for number in range(6)]
    sections = [
        line_chart([series(f"p{number}", *((x, y * number) for x, y in curve)) for number in range(1, 7)],
                   x_label="images/s", y_label="ms", label="lines", limit=1000, limit_label="goal",
                   marks={"early": 3, "late": 49}),
        line_chart([series("ideal", (10, 10), (9000, 9000), draw=Draw.LINE),
                    series("measured", *((1.3**i, 1.3**i) for i in range(9, 35)), draw=Draw.POINTS)],
                   x_label="ms", y_label="ms", label="powers", log_x=True, log_y=True),
        line_chart([series("many", *((t, math.sin(t / 50)) for t in range(900)))], x_label="s", y_label="",
                   label="many"),
        stacked_bars(rows, names, x_label="ms", label="stacked"),
        bar_chart([*rows, Row(name="WWWW a name much too long to be shown in full", values=[3] * 6)], names,
                  x_label="ms", label="grouped", limit=2900, limit_label="goal"),
        '<div class="panels">' + "".join(
            column_chart([(str(size), size) for size in range(1, count)], x_label="images", y_label="%",
                         label=f"columns {count}") for count in (2, 9, 65)) + "</div>",
    ]  # fmt: skip
    path = tmp_path / "charts.html"
    path.write_text(document("charts", sections))
    page = open_page(path, width=width, dark=dark)
    assert page.flaws() == []
    assert [chart.label for chart in page.charts] == [
        *("lines", "powers", "many", "stacked", "grouped"),
        *(f"columns {count}" for count in (2, 9, 65)),
    ]
    assert [chart.marks for chart in page.charts[-3:]] == [1 + 1, 1 + 8, 1 + 64]


def test_a_browser_notices_what_a_reader_would(tmp_path):
    label = 'role="img" aria-label="bad"'
    words = '<text x="90" y="20">cut off</text><text x="0" y="20">one</text><text x="3" y="21">two</text>'
    chart = f'<svg {label} viewBox="0 0 100 40" style="width:100px">{words}</svg>'
    script = "<script>document.title = 'x'</script>"
    path = tmp_path / "bad.html"
    path.write_text(document("bad", [chart, '<div style="width:3000px">wide</div>', script]))
    page = open_page(path)
    assert page.title == "bad"
    blocked, *flaws = page.flaws()
    assert "Content Security Policy" in blocked
    assert flaws == [
        "the page is wider than its window",
        "bad: is empty",
        "bad: 'cut off' is cut off",
        "bad: 'one / two' lie on each other",
    ]
