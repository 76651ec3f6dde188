"""The page of evidence: what is on it, that it needs nothing besides, and that no name from data can become markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builder.accuracy import ImageDetections, measure
from builder.accuracy_html import write_html
from builder.charts import Stem, stem_chart
from builder.comparison import compare
from builder.dataset import DataImage, DataSplit
from builder.gate import GateLimits
from builder.layers import LayerGroup
from builder.mixed import Mixture, Sensitivity, Step
from tests.browser import open_page

HOSTILE = "<script>alert('&1')</script>"
BOX = (20.0, 20.0, 90.0, 90.0)
LIMITS = GateLimits()


def rows(confidence: float, class_id: int = 0) -> np.ndarray:
    return np.array([[*BOX, confidence, class_id]], np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> DataSplit:
    folder = tmp_path_factory.mktemp("data")
    images = []
    for index in range(8):
        path = folder / f"{index}<b>&.png"
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (120, 160, 3), np.uint8)).save(path)
        box = np.array([BOX]) / (160, 120, 160, 120)
        images.append(DataImage(path=path, classes_N=np.array([index % 2]), boxes_N4=box))
    return DataSplit(source=folder / "data.yaml", split="val", names=("plain", HOSTILE), images=tuple(images))


def report_of(data: DataSplit, confidence: float):
    found = [
        ImageDetections(path=image.path, image_hw=(120, 160), rows_N6=rows(confidence, index % 2))
        for index, image in enumerate(data.images)
    ]
    return measure(data, found)


def mixture() -> Mixture:
    group = LayerGroup(name="model.4<i>", convolutions=("c",), multiply_adds=10, share=0.25)
    step = Step(
        given_back=(group.name,),
        int8_share=0.75,
        map50_95=0.5,
        map_drop=0.02,
        confidence_drop=None,
        violation=float("inf"),
        passes=False,
    )
    sensitivities = (Sensitivity(group=group, violation_alone=float("inf")),)
    return Mixture(exclude=(group.name,), steps=(step,), sensitivities=sensitivities)


@pytest.fixture(scope="module")
def write(data):
    reference, candidate = report_of(data, 0.9), report_of(data, 0.3)
    comparison = compare(reference, candidate)

    def page(path: Path, with_mixture: Mixture | None = None) -> str:
        write_html(
            path,
            title=f"model {HOSTILE}",
            reference=reference,
            candidate=candidate,
            comparison=comparison,
            limits=LIMITS,
            failures=LIMITS.failures(comparison),
            mixture=with_mixture,
            facts={"weights": HOSTILE},
        )
        return path.read_text()

    return page


class Tags(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_the_verdict_and_its_reason_stand_first(tmp_path, write):
    text = re.sub(r"<[^>]+>", " ", write(tmp_path / "page.html").split("</style>")[1])
    assert text.index("Gate failed") < text.index("Accuracy")
    assert "the median confidence falls by 0.600, limit 0.05" in text


def test_names_from_data_are_text(tmp_path, write):
    page = write(tmp_path / "page.html", mixture())
    assert {tag for tag, _ in Tags(page).tags}.isdisjoint({"script", "i"})
    assert "&lt;script&gt;alert(" in page
    assert "model.4&lt;i&gt;" in page
    assert "0&lt;b&gt;&amp;.png" in page


def test_the_page_needs_no_other_file_and_may_load_none(tmp_path, write):
    tags = Tags(write(tmp_path / "page.html")).tags
    sources = [value for _, attributes in tags for name in ("src", "href") if (value := attributes.get(name))]
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    policy = next(a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "script" not in policy


def test_the_images_that_differ_most_are_shown_in_pairs(tmp_path, write):
    pictures = [a for tag, a in Tags(write(tmp_path / "page.html")).tags if tag == "img"]
    assert len(pictures) == 12


def test_equal_inputs_give_equal_bytes(tmp_path, write):
    assert write(tmp_path / "a.html", mixture()) == write(tmp_path / "b.html", mixture())


def test_steps_without_a_figure_are_shown(tmp_path, write):
    page = write(tmp_path / "page.html", mixture())
    assert "Layers given back to FP16" in page
    assert "75.0 %" in page
    assert "Layers given back to FP16" not in write(tmp_path / "plain.html")


def test_no_sensitivity_is_shown_where_none_was_measured(tmp_path, write):
    plain = Mixture(exclude=(), steps=mixture().steps, sensitivities=())
    assert "Sensitivity" in write(tmp_path / "page.html", mixture())
    assert "Sensitivity" not in write(tmp_path / "plain.html", plain)


def test_the_line_of_a_layer_that_costs_more_is_longer():
    values = (float("inf"), 8.0, 4.0, 0.0, -2.0)
    chart = stem_chart(
        [Stem(name=str(value), note="", value=value, chosen=False) for value in values], limit=1.0, label="cost"
    )
    lengths = [float(end) - float(start) for start, end in re.findall(r'd="M([\d.]+),[\d.]+H([\d.]+)"', chart)]
    assert lengths[0] == lengths[1] == pytest.approx(2 * lengths[2], abs=0.2)
    assert lengths[3] == 0
    assert lengths[4] < 0


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path, write):
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError, match=r"page\.html"):
        write(tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_a_browser_shows_every_chart_and_picture(tmp_path, write, width, dark):
    write(tmp_path / "page.html", mixture())
    page = open_page(tmp_path / "page.html", width=width, dark=dark)
    assert page.flaws() == []
    assert page.title == f"model {HOSTILE}"
    assert page.pictures == 12
    stems, *curves = page.charts
    assert stems.label == "Loss divided by its limit with one group of layers alone in INT8"
    assert (stems.texts[0], stems.texts[1].startswith("model.4<i>"), stems.texts[-1]) == ("limit", True, "∞")
    assert {curve.label.removeprefix("Precision and recall of ") for curve in curves} == {
        "all, the mean",
        "plain",
        HOSTILE,
    }
    # Two lines; the axes are shared by all curves.
    assert all(curve.marks >= 2 and curve.height > 100 for curve in curves)
