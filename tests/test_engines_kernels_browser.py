"""The page of a kernel report in a real browser: Debian's chromium, headless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import browser as browser
from browsing import show
from kernel_logs import BLOCK, layer_line
from selenium import webdriver
from selenium.webdriver.common.by import By

from vdmrt.engines import read_layers
from vdmrt.engines.kernels.html import render_kernels
from vdmrt.engines.kernels.kernel import make_kernels
from vdmrt.engines.kernels.report import KernelReport
from vdmrt.engines.kernels.stage import StageReport
from vdmrt.engines.tensorrt.rtx.build_log import inspection_of

pytestmark = pytest.mark.browser


@pytest.fixture
def page(tmp_path: Path) -> str:
    """Return the address of the page of one block, the last of whose kernels has a long name."""
    named = layer_line("__myl_" + 16 * "Resh", "kgen", [("a", (2,), "Half")], [("b", (512, 2048), "Half")])
    layers = read_layers(
        inspection_of([line.replace("Metadata: ", "Metadata: [ONNX Layer: n]") for line in (*BLOCK, named)])
    )
    stage = StageReport("denoise.onnx", "tensorrt_rtx", "1.7.1", make_kernels(layers, {"n": 0}, ()), True, 1.0, 1000)
    path = tmp_path / "page.html"
    path.write_text(render_kernels(KernelReport("rtx-1", "TensorRT for RTX", {"denoise": stage})), encoding="utf-8")
    return path.as_uri()


def test_every_kernel_has_a_visible_bar_in_its_color(browser: webdriver.Chrome, page: str) -> None:
    show(browser, page)

    bars = browser.find_elements(By.CSS_SELECTOR, "svg.timeline rect.mark")
    assert [bar.get_attribute("class") for bar in bars] == [
        f"mark tone-{tone}" for tone in ("a", "b", "c", "b", "a", "b")
    ]
    assert all(bar.size["width"] > 0 for bar in bars)
    console: Any = browser  # selenium does not annotate it
    assert console.get_log("browser") == []


@pytest.mark.parametrize("width", [380, 1280])
def test_the_page_does_not_scroll_sideways(width: int, browser: webdriver.Chrome, page: str) -> None:
    show(browser, page, width=width)

    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    drawing = browser.find_element(By.CSS_SELECTOR, "svg.timeline")
    assert drawing.size["width"] >= 0.3 * width
