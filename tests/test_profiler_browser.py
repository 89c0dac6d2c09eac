"""The HTML report of a real run in a real browser: Debian's chromium, headless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from browsing import browser as browser
from browsing import show
from selenium import webdriver
from selenium.webdriver.common.by import By

from vdmrt.profiler import Report, Settings, profile
from vdmrt.profiler.report.html import render_html

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


def logged(browser: Any, kind: str) -> list[dict[str, Any]]:
    """Return what a browser logged since the last call."""
    entries: list[dict[str, Any]] = browser.get_log(kind)
    return entries


def test_the_page_loads_no_resources_and_logs_no_errors(browser: webdriver.Chrome, page: str) -> None:
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
    assert len(browser.find_elements(By.CSS_SELECTOR, "svg")) == 6


@pytest.mark.parametrize("table", ["stages", "layers"])
def test_a_click_on_a_heading_sorts_and_a_second_click_reverses(
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
    cells = browser.find_elements(By.CSS_SELECTOR, "#stages tbody th")

    names = [cell.text for cell in cells]
    assert names == sorted(names, reverse=True)
    assert len(names) > 8
