"""A real browser, without a window, that shows a report and says what it found on it."""

from __future__ import annotations

import base64
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

BROWSER_PACKAGES = "chromium chromium-driver"
_CHARTS = """
const overlap = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
return [...document.querySelectorAll('svg[role=img]')].map(svg => {
  const box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll('path,polyline,rect,circle')].filter(mark => {
    const drawn = mark.getBoundingClientRect();
    return drawn.width > 0 || drawn.height > 0;
  });
  const texts = [...svg.querySelectorAll('text')].map(text => {
    const named = [...text.childNodes].filter(node => node.nodeName !== 'title').map(node => node.textContent);
    return {words: named.join(''), box: text.getBoundingClientRect()};
  });
  const outside = texts.filter(({box: its}) => its.left < box.left - 1 || its.right > box.right + 1
      || its.top < box.top - 1 || its.bottom > box.bottom + 1);
  const clashes = texts.flatMap((a, index) =>
      texts.slice(index + 1).filter(b => overlap(a.box, b.box)).map(b => a.words + ' / ' + b.words));
  return {label: svg.getAttribute('aria-label'), width: box.width, height: box.height, marks: marks.length,
          texts: texts.map(each => each.words), outside: outside.map(each => each.words), clashes};
});
"""
_PICTURES = "return [...document.images].filter(image => image.naturalWidth > 0).length"
_SIDEWAYS = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """An ``<svg role="img">`` as it is drawn, in CSS pixels."""

    label: str
    width: float
    height: float
    marks: int
    """Paths, lines, bars and circles that take up room."""
    texts: tuple[str, ...]
    outside: tuple[str, ...]
    """Of the texts, those that reach beyond the picture and are cut off."""
    clashes: tuple[str, ...]
    """Pairs of texts that lie on one another."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the browser made of a file."""

    title: str
    text: str
    """As a reader sees it."""
    charts: tuple[Chart, ...]
    pictures: int
    """Images that it could decode."""
    scrolls_sideways: bool
    """Whether the page as a whole is wider than its window."""
    console: tuple[str, ...]
    """What it complained about: blocked by the page's policy, not found, a script's error."""

    def flaws(self) -> list[str]:
        """What a reader would stumble on, none of which a page of this project should have."""
        found = list(self.console)
        found += ["the page is wider than its window"] * self.scrolls_sideways
        for chart in self.charts:
            found += [f"{chart.label}: is empty"] * (chart.marks == 0)
            found += [f"{chart.label}: {words!r} is cut off" for words in chart.outside]
            found += [f"{chart.label}: {words!r} lie on each other" for words in chart.clashes]
        return found


def open_page(
    path: Path, *, screenshot: Path | None = None, width: int = 1200, height: int = 1600, dark: bool = False
) -> Page:
    """Open a local file; skips the test, with the command that mends it, where there is no Chromium.

    ``screenshot`` is of the whole page, however long; ``dark`` is what a reader's system asks for.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip(f"needs a browser: apt-get install {BROWSER_PACKAGES}")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # Chromium's sandbox does not start as root, as in a container; the page is one that this project wrote.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=Service(executable_path=driver))
    try:
        # A window, even one that nobody sees, is never narrower than 500 pixels; the device that is shown may be.
        device = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        session.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        session.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        session.get(path.resolve().as_uri())
        found = session.execute_script(_CHARTS)
        charts = tuple(
            Chart(**{name: tuple(value) if isinstance(value, list) else value for name, value in each.items()})
            for each in found
        )
        if screenshot:
            whole = {"format": "png", "captureBeyondViewport": True}
            picture = session.execute_cdp_cmd("Page.captureScreenshot", whole)
            screenshot.write_bytes(base64.b64decode(picture["data"]))
        return Page(
            title=session.title,
            text=session.find_element("tag name", "body").text,
            charts=charts,
            pictures=session.execute_script(_PICTURES),
            scrolls_sideways=session.execute_script(_SIDEWAYS),
            console=tuple(entry["message"] for entry in session.get_log("browser")),
        )
    finally:
        session.quit()
