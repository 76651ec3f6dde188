"""A real browser, without a window, that shows a report and says what it found on it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

BROWSER_PACKAGES = "chromium chromium-driver"
_CHARTS = """
return [...document.querySelectorAll('svg[role=img]')].map(svg => {
  const box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll('path,polyline,rect,circle')].filter(mark => {
    const drawn = mark.getBoundingClientRect();
    return drawn.width > 0 || drawn.height > 0;
  });
  return {label: svg.getAttribute('aria-label'), width: box.width, height: box.height, marks: marks.length,
          texts: [...svg.querySelectorAll('text')].map(text => text.textContent)};
});
"""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """An ``<svg role="img">`` as it is drawn, in CSS pixels."""

    label: str
    width: float
    height: float
    marks: int
    """Paths, lines, bars and circles that take up room."""
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the browser made of a file."""

    title: str
    text: str
    """As a reader sees it."""
    charts: tuple[Chart, ...]
    console: tuple[str, ...]
    """What it complained about: blocked by the page's policy, not found, a script's error."""


def open_page(path: Path, *, screenshot: Path | None = None, width: int = 1200, height: int = 1600) -> Page:
    """Open a local file; skips the test, with the command that mends it, where there is no Chromium."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and driver):
        pytest.skip(f"needs a browser: apt-get install {BROWSER_PACKAGES}")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # Chromium's sandbox does not start as root, as in a container; the page is one that this project wrote.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    session = webdriver.Chrome(options=options, service=Service(executable_path=driver))
    try:
        session.get(path.resolve().as_uri())
        charts = tuple(Chart(**{**each, "texts": tuple(each["texts"])}) for each in session.execute_script(_CHARTS))
        if screenshot:
            session.save_screenshot(str(screenshot))
        return Page(
            title=session.title,
            text=session.find_element("tag name", "body").text,
            charts=charts,
            console=tuple(entry["message"] for entry in session.get_log("browser")),
        )
    finally:
        session.quit()
