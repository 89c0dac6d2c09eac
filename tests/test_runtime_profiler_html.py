"""The page of a profile, without a browser; test_runtime_profiler_browser.py looks at it in one."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vdmrt.runtime.profiler import Report, Settings, profile
from vdmrt.runtime.profiler.charts import Bar, Series, draw_histogram, draw_lanes, draw_lines, draw_shares
from vdmrt.runtime.profiler.html import render_html
from vdmrt.runtime.profiler.page import Page, Table


@pytest.fixture(scope="module")
def report(tiny_bundle: Path) -> Report:
    """Return a profile with layers."""
    return profile(Settings(tiny_bundle, sampler="ddim", steps=2, chunks=4, warmup=0, layers=True, roofline=False))


def svg_of(figure: str) -> ElementTree.Element:
    """Return a figure's drawing, parsed."""
    (drawing,) = re.findall(r"<svg.*</svg>", figure, re.DOTALL)
    return ElementTree.fromstring(drawing)


def test_the_page_holds_every_section_and_refers_to_nothing_outside(report: Report) -> None:
    page = render_html(report)

    for title in ("Where the time of a chunk goes", "autoregressive steps", "Time between chunks", "Two chunks",
                  "Stages", "Layers", "Transformer blocks and operators", "What it ran on"):  # fmt: skip
        assert title in page
    assert not re.search(r"(?:src|href)=\"(?!data:,)|url\(|@import|https?://", page)


def test_what_comes_from_a_bundle_cannot_break_the_page(report: Report) -> None:
    named = dataclasses.replace(report.workload, name="<script>alert(1)</script>", bundle='"><u>')

    page = render_html(dataclasses.replace(report, workload=named, warnings=("<i>",)))

    assert "<script>alert" not in page and '"><u>' not in page and "<i>" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_every_node_has_its_block_and_their_shares_are_whole(report: Report) -> None:
    for stage in ("denoise", "fill"):
        layers = [layer for layer in report.layers if layer.stage == stage]
        assert {layer.block for layer in layers} == {-1, 0, 1}
        assert sum(layer.share for layer in layers) == pytest.approx(1.0)
        products = [layer.block for layer in layers if layer.operator in ("Gemm", "MatMul", "FusedMatMul")]
        # The same products in both blocks, but one for the mask channel in the first; a fill's last block stops early.
        assert products.count(0) == pytest.approx(products.count(1), abs=1) or stage == "fill"


def test_lines_begin_at_zero_and_mark_every_point() -> None:
    drawing = svg_of(
        draw_lines([Series("a", "tone-a", [2.0, 4.0])], x=[0, 1], x_title="x", y_title="y", marks={1.0: "full"})
    )

    circles = [e for e in drawing.iter() if e.tag == "circle"]
    floor = max(float(e.get("y1", 0)) for e in drawing.iter("line") if e.get("class") == "axis")
    heights = [floor - float(circle.get("cy", 0)) for circle in circles]
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.01)
    assert "full" in [e.text for e in drawing.iter("text")]


@pytest.mark.parametrize("values", [[5.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 50.0] * 10])
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    titles = [e.text or "" for e in svg_of(draw_histogram(values, x_title="ms")).iter("title")]

    assert sum(int(title.split()[0]) for title in titles) == len(values)


def test_shares_fill_the_bar() -> None:
    drawing = svg_of(draw_shares({"a": (1.0, "tone-a"), "b": (3.0, "tone-b"), "c": (0.0, "tone-c")}, title="t"))

    widths = [float(e.get("width", 0)) for e in drawing.iter("rect")]
    assert widths == [230.0, 690.0, 0.0]


def test_lanes_show_what_overlaps_one_under_the_other() -> None:
    drawing = svg_of(draw_lanes({"x": [Bar(0, 10, "tone-a", "a")], "y": [Bar(5, 10, "tone-b", "b & c")]}, x_title="ms"))

    first, second = drawing.iter("rect")
    assert float(second.get("x", 0)) > float(first.get("x", 0))
    assert float(second.get("y", 0)) > float(first.get("y", 0))


def test_a_table_sorts_numbers_by_their_value() -> None:
    shown = Table(["a", "b"], [["x", 1234.5678], ["y", 7]], sorts=True).render()

    assert 'data-value="1234.5678">1235<' in shown
    assert shown.count("<button") == 2
    assert "<button" not in Table(["a"], [["x"]]).render()


def test_a_page_serves_other_reports_too() -> None:
    page = Page("Drift", subtitle=["on x"], warnings=["careful"])
    page.add_cards([("1.0", "cosine")])
    page.add_section("Numbers", Table(["a"], [[1]]), text="of a")

    shown = page.render()

    assert all(text in shown for text in ("<h1>Drift</h1>", "on x", "careful", "cosine", "<h2>Numbers</h2>"))
