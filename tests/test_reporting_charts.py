"""SVG charts of reports."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from vdmrt.reporting import Bar, Chart, Series, Timeline, draw_histogram, draw_lines, draw_shares

SVG = "{http://www.w3.org/2000/svg}"


def svgs_of(part: Chart | Timeline) -> list[ElementTree.Element]:
    """Return the drawings of a part of a page, parsed."""
    return [ElementTree.fromstring(drawing) for drawing in re.findall(r"<svg.*?</svg>", part.render(), re.DOTALL)]


def svg_of(chart: Chart) -> ElementTree.Element:
    """Return a chart's drawing, parsed."""
    (drawing,) = svgs_of(chart)
    return drawing


def test_lines_begin_at_zero_and_mark_every_point() -> None:
    drawing = svg_of(
        draw_lines([Series("a", "tone-a", [2.0, 4.0])], x=[0, 1], title="t", x_title="x", marks={1.0: "full"})
    )

    circles = [e for e in drawing.iter() if e.tag == "circle"]
    floor = max(float(e.get("y1", 0)) for e in drawing.iter("line") if e.get("class") == "axis")
    heights = [floor - float(circle.get("cy", 0)) for circle in circles]
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.01)
    assert "full" in [e.text for e in drawing.iter("text")]


def test_values_that_are_not_finite_are_left_out() -> None:
    series = [Series("a < b", "tone-a", [1, float("nan"), 3]), Series("none", "tone-b", [float("inf")] * 3)]
    drawing = svg_of(draw_lines(series, x=[0, 1, 2], title="t & t", x_title="x", from_zero=False))

    assert len(list(drawing.iter("circle"))) == 2
    assert "none: no values." in (drawing.findtext("desc") or "")


def test_a_chart_has_a_text_alternative() -> None:
    drawing = svg_of(draw_lines([Series("a", "tone-a", [2.0, 5.0, 4.0])], x=[0, 1, 2], title="Error, dB", x_title="x"))

    assert (drawing.get("role"), drawing.findtext("title")) == ("img", "Error, dB")
    assert drawing.findtext("desc") == "Over x. a: 2 first, 4 last, 2 to 5."


def test_a_chart_can_be_a_separate_document() -> None:
    chart = draw_lines([Series("a < b", "tone-a", [1.0, 2.0])], x=[0, 1], title="t & t", x_title="x")

    document = ElementTree.fromstring(chart.to_svg())

    texts = [element.text for element in document.iter(f"{SVG}text")]
    assert "t & t" in texts and "a < b" in texts
    assert "--tone" in (document.findtext(f"{SVG}style") or "")


@pytest.mark.parametrize("values", [[5.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 50.0] * 10])
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    drawing = svg_of(draw_histogram(values, title="t", x_title="ms"))

    titles = [element.findtext("title") or "" for element in drawing.iter("rect")]
    assert sum(int(title.split()[0]) for title in titles) == len(values)


def test_shares_fill_the_bar() -> None:
    drawing = svg_of(
        draw_shares({"a": (1.0, "tone-a"), "b": (3.0, "tone-b"), "c": (0.0, "tone-c")}, title="t", unit="s")
    )

    widths = [float(e.get("width", 0)) for e in drawing.iter("rect")]
    assert widths == [120.0, 360.0, 0.0]
    assert drawing.findtext("desc") == "a 1 s, 25.0 %; b 3 s, 75.0 %; c 0 s, 0.0 %"


def test_lanes_of_a_timeline_have_one_time() -> None:
    lanes = {"x": [Bar(0, 10, "tone-a", "a")], "y": [Bar(5, 10, "tone-b", "b & c")]}

    first, second = (drawing.find("rect") for drawing in svgs_of(Timeline("t", "ms", lanes)))

    assert first is not None and second is not None
    assert (first.get("x"), second.get("x")) == ("0.00", "500.00")
    assert second.findtext("title") == "b & c: 5 ms"
