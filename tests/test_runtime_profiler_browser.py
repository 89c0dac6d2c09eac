"""The HTML report of a real run in a real browser: Debian's chromium, headless."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from vdmrt.runtime.profiler import Report, Settings, profile
from vdmrt.runtime.profiler.html import render_html

pytestmark = pytest.mark.browser
SKY = Path(__file__).parent.parent / "examples" / "sky" / "bundle"


@pytest.fixture(scope="module")
def report() -> Report:
    """Return a profile of the shipped model."""
    return profile(Settings(SKY, chunks=6, steps=2, warmup=0, target_fps=8.0, layers=True, decoding="overlapped"))


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of its page."""
    path = tmp_path_factory.mktemp("html") / "report.html"
    path.write_text(render_html(report), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Start chromium, with the network cut off."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.binary_location = "/usr/bin/chromium"
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def show(browser: webdriver.Chrome, page: str, *, width: int = 1400, scheme: str = "light") -> None:
    """Open a page in a window of some width."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page)


def logged(browser: Any, kind: str) -> list[dict[str, Any]]:
    """Return what a browser logged since the last call."""
    entries: list[dict[str, Any]] = browser.get_log(kind)
    return entries


def contrast(browser: webdriver.Chrome, selector: str) -> float:
    """Return the contrast of an element's text, or of a mark's fill, to the page's ground (WCAG 2)."""
    script = """
      const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const light = text => { const [r, g, b] = rgb(text).map(v => v / 255)
          .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const element = document.querySelector(arguments[0]), style = getComputedStyle(element);
      const ink = element instanceof SVGElement ? style.fill : style.color;
      const [a, b] = [light(ink), light(getComputedStyle(document.body).backgroundColor)].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    """
    return float(browser.execute_script(script, selector))


def test_the_page_asks_for_nothing_and_complains_of_nothing(browser: webdriver.Chrome, page: str) -> None:
    logged(browser, "performance")
    show(browser, page)

    events = [json.loads(entry["message"])["message"] for entry in logged(browser, "performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {page}
    assert logged(browser, "browser") == []


def test_every_chart_has_its_marks(browser: webdriver.Chrome, page: str, report: Report) -> None:
    show(browser, page)

    def count(selector: str) -> int:
        visible = (element for element in browser.find_elements(By.CSS_SELECTOR, selector))
        return sum(element.size["width"] > 0 and element.size["height"] > 0 for element in visible)

    assert count("svg.shares rect.mark") >= 4
    assert count("svg.lines circle.mark") == 2 * len(report.curve)
    assert "cache full: 25 latent frames" in browser.find_element(By.CSS_SELECTOR, "svg.lines").text
    assert count("svg.histogram rect.mark") >= 2
    assert count("svg.timeline rect.mark") == len(report.timeline)
    assert len(browser.find_elements(By.CSS_SELECTOR, "svg")) == 4


@pytest.mark.parametrize("table", ["stages", "layers"])
def test_a_click_on_a_heading_sorts_and_a_second_one_turns_round(
    table: str, browser: webdriver.Chrome, page: str
) -> None:
    show(browser, page)
    heads = browser.find_elements(By.CSS_SELECTOR, f"#{table} th")
    column = next(i for i, head in enumerate(heads) if head.text in ("median", "ms"))

    def values() -> list[float]:
        cells = f"[...document.querySelectorAll('#{table} td:nth-child({column + 1})')]"
        numbers: list[float] = browser.execute_script(f"return {cells}.map(cell => Number(cell.dataset.value))")
        return numbers

    before = sorted(values())
    heads[column].find_element(By.TAG_NAME, "button").click()
    assert values() == before[::-1]
    assert heads[column].get_attribute("aria-sort") == "descending"
    heads[column].find_element(By.TAG_NAME, "button").click()
    assert values() == before


def test_a_column_of_words_sorts_by_them(browser: webdriver.Chrome, page: str) -> None:
    show(browser, page)

    browser.find_element(By.CSS_SELECTOR, "#stages th button").click()
    cells = browser.find_elements(By.CSS_SELECTOR, "#stages td:first-child")

    names = [cell.text for cell in cells]
    assert names == sorted(names, reverse=True)
    assert len(names) > 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_is_readable(width: int, scheme: str, browser: webdriver.Chrome, page: str) -> None:
    show(browser, page, width=width, scheme=scheme)

    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    for text in ("h1", "p.soft", "svg text", "svg text.note", "td", ".card span"):
        assert contrast(browser, text) >= 4.5, text
    for mark in (".tone-a.mark", ".tone-b.mark", ".tone-c.mark", ".tone-f.mark"):
        assert contrast(browser, mark) >= 3, mark
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 9 - 1 / 64  # which is what Chromium lays out in
    rows = browser.execute_script("return [...document.querySelectorAll('tr')].map(row => row.offsetHeight)")
    assert max(rows) <= 120
