"""Headless chromium of Debian, for tests of rendered pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

__all__ = ["browser", "contrast", "show"]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Start chromium, with its logs kept."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.binary_location = "/usr/bin/chromium"
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def show(
    browser: webdriver.Chrome, page: str, *, width: int = 1280, scheme: str = "light", media: str = "screen"
) -> None:
    """Open a page in a window of some width."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page)


def contrast(browser: webdriver.Chrome, selector: str) -> float:
    """Return the contrast of an element's text, or of a mark's fill, with its background (WCAG 2)."""
    script = """
      const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
      const light = text => { const [r, g, b] = rgb(text).map(v => v / 255)
          .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const element = document.querySelector(arguments[0]), style = getComputedStyle(element);
      const ink = element instanceof SVGElement ? style.fill : style.color;
      let ground = element;
      while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
      const [a, b] = [ink, getComputedStyle(ground).backgroundColor].map(light).sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    """
    return float(browser.execute_script(script, selector))
