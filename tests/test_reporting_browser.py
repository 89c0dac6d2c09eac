"""Every report in a real browser: wide and narrow windows, both color schemes, and print."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from browsing import browser as browser
from browsing import contrast, show
from selenium import webdriver

from vdmrt.bundle import FP16
from vdmrt.calibration.verify.request import VerifyRequest
from vdmrt.calibration.verify.verification import verify, write_report
from vdmrt.profiler import Settings, profile
from vdmrt.profiler.analysis.gates import judge_gates
from vdmrt.profiler.report.html import render_html

pytestmark = pytest.mark.browser
SKY = Path(__file__).parent.parent / "examples" / "sky" / "bundle"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the addresses of a profile with all sections, and of an accuracy report."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(SKY, folder / "bundle")
    settings = Settings(folder / "bundle", chunks=6, steps=1, warmup=0, layers=True, decoding="overlapped")
    report = profile(settings, against="steps=2")
    gates = judge_gates(report, fail_above=0.001, fail_below=0.001)
    (folder / "profile.html").write_text(render_html(report, gates), encoding="utf-8")
    limits = {"teacher-psnr": 149.0, "drift": 1e9}
    verdict = verify(VerifyRequest(bundle=folder / "bundle", precision=FP16, chunks=4, seeds=1, steps=1, gates=limits))
    write_report(folder / "verify.html", verdict)
    return {name: (folder / f"{name}.html").as_uri() for name in ("profile", "verify")}


@pytest.fixture(params=["profile", "verify"])
def page(request: pytest.FixtureRequest, pages: dict[str, str]) -> str:
    """Return the address of one of the pages."""
    return pages[request.param]


@pytest.mark.parametrize("width", [420, 768, 1280])
def test_a_page_is_no_wider_than_its_window(width: int, browser: webdriver.Chrome, page: str) -> None:
    show(browser, page, width=width)

    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_every_column_is_visible_at_1280(browser: webdriver.Chrome, page: str) -> None:
    show(browser, page, width=1280)

    hidden = browser.execute_script("""
      return [...document.querySelectorAll("thead th")].filter(head =>
        head.getBoundingClientRect().right > head.closest(".scroll").getBoundingClientRect().right + 1
      ).map(head => head.textContent)""")
    assert hidden == []


@pytest.mark.parametrize("width", [420, 768, 1280])
def test_every_mark_and_label_is_inside_its_chart(width: int, browser: webdriver.Chrome, page: str) -> None:
    show(browser, page, width=width)

    cut = browser.execute_script("""
      return [...document.querySelectorAll("svg rect, svg circle, svg text")].filter(mark => {
        const inner = mark.getBoundingClientRect(), outer = mark.closest("svg").getBoundingClientRect();
        return inner.left < outer.left - 1 || inner.right > Math.min(outer.right, window.innerWidth) + 1
          || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
      }).map(mark => mark.outerHTML)""")
    assert cut == []


@pytest.mark.parametrize("width", [420, 1280])
def test_labels_of_an_axis_differ_and_do_not_touch(width: int, browser: webdriver.Chrome, page: str) -> None:
    show(browser, page, width=width)

    axes = browser.execute_script("""
      return [...document.querySelectorAll("svg")].flatMap(svg => ["text.x", "text.y"].map(axis =>
        [...svg.querySelectorAll(axis)].map(text => [text.textContent, text.getBoundingClientRect()]
      ))).filter(axis => axis.length).map(axis => axis.map(([text, box]) => [text, box.left, box.right, box.top]))""")
    assert len(axes) >= 4
    for axis in axes:
        assert len({label for label, *_ in axis}) == len(axis)
        for (_, _, right, top), (_, left, _, next_top) in zip(axis, axis[1:], strict=False):
            assert left >= right or next_top != top


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 1280])
def test_a_page_is_readable(width: int, scheme: str, browser: webdriver.Chrome, page: str) -> None:
    show(browser, page, width=width, scheme=scheme)

    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    for text in ("h1", "p.soft", "svg text", "td", "tbody th", "td.pass", "td.fail", ".verdict p", ".headline"):
        assert contrast(browser, text) >= 4.5, text
    for mark in (".tone-a.mark", ".tone-b.mark"):
        assert contrast(browser, mark) >= 3, mark
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 9 - 1 / 64  # Chromium's units of layout
    rows = browser.execute_script("return [...document.querySelectorAll('tr')].map(row => row.offsetHeight)")
    assert max(rows) <= 120


def test_on_paper_a_page_is_light_and_nothing_scrolls(browser: webdriver.Chrome, page: str) -> None:
    show(browser, page, width=688, scheme="dark", media="print")  # A4 without margins

    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    scrolling = browser.execute_script("""
      return [...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth + 1
        || box.scrollHeight > box.clientHeight + 1).map(box => box.getAttribute("aria-label"))""")
    assert scrolling == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 688


def test_pictures_and_tables_have_names(browser: webdriver.Chrome, page: str) -> None:
    show(browser, page)

    nameless = browser.execute_script("""
      return [...document.querySelectorAll("svg")].filter(svg => svg.firstElementChild.tagName !== "title")
        .concat([...document.querySelectorAll("img")].filter(image => !image.alt))
        .concat([...document.querySelectorAll("table")].filter(table => !table.getAttribute("aria-label")))
        .concat([...document.querySelectorAll("th")].filter(head => !head.scope || !head.textContent))
        .map(element => element.outerHTML)""")
    assert nameless == []
    assert browser.execute_script("return document.querySelector('main').firstElementChild.className") == "verdict fail"
