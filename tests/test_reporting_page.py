"""Pages: the verdict first, then figures with their limits; tables that sort."""

from __future__ import annotations

import pytest

from vdmrt.reporting import Figure, Headline, Page, Picture, Table, judge_figures, tabulate_figures

FIGURES = [
    Figure("free-psnr", 41.5, unit="dB"),
    Figure("teacher-psnr", 36.2, "at least 35", True, "dB", "PSNR of latents"),
    Figure("drift", 1.5, "at most 1.25", False),
]


def test_the_verdict_is_first_and_names_missed_limits() -> None:
    page = Page("Accuracy", verdict=judge_figures(FIGURES))
    page.add_section("Figures", tabulate_figures(FIGURES))

    shown = page.render()

    assert shown.index("FAIL: 1 of 2 limits missed") < shown.index("drift: 1.5, limit: at most 1.25")
    assert shown.index("drift: 1.5, limit: at most 1.25") < shown.index("<table")


@pytest.mark.parametrize(
    ("figures", "headline", "passed"),
    [
        (FIGURES[:2], "PASS: 1 limit met", True),
        (FIGURES[1:2] * 2, "PASS: 2 limits met", True),
        (FIGURES[:1], "No limits were set: figures only", None),
        (FIGURES[2:], "FAIL: 1 of 1 limit missed", False),
    ],
)
def test_a_verdict_passes_only_with_a_limit(figures: list[Figure], headline: str, passed: bool | None) -> None:
    verdict = judge_figures(figures)

    assert (verdict.headline, verdict.passed) == (headline, passed)


def test_missed_limits_are_the_first_rows_and_figures_without_limit_the_last() -> None:
    rows = tabulate_figures(FIGURES).rows

    assert [row[0] for row in rows] == ["drift", "teacher-psnr", "free-psnr"]
    assert rows[1][1:4] == ["36.2 dB", "at least 35 dB", True]
    assert rows[2][1:4] == ["41.5 dB", "–", None]


def test_a_table_sorts_numbers_by_their_value() -> None:
    shown = Table(["a", "b"], [["x", 1234.5678], ["y", 7]], sorts=True).render()

    assert 'data-value="1234.5678">1235<' in shown
    assert shown.count("<button") == 2
    assert "<button" not in Table(["a"], [["x"]]).render()


@pytest.mark.parametrize(
    ("value", "shown"), [(12345.6, ">12346<"), (0.99993, ">0.99993<"), (7, ">7<"), (True, "✓ pass"), (False, "✗ fail")]
)
def test_cells_are_shown_as_people_read_them(value: float, shown: str) -> None:
    assert shown in Table(["a", "b"], [["x", value]]).render()


def test_row_and_column_headers_are_marked() -> None:
    shown = Table(["a", "b"], [["x", 1]], title="Times").render()

    assert '<th scope="col">a</th>' in shown and '<th scope="row">x</th>' in shown
    assert '<table id="table" aria-label="Times">' in shown


def test_a_page_contains_every_part_escaped() -> None:
    page = Page("<Drift>", subtitle=["on <x>"], verdict=Headline("<fine>", True), warnings=["<careful>"])
    page.add_cards([("1.0", "<cosine>")])
    page.add_section("<Numbers>", Table(["<a>"], [["<b>"]]), Picture("<p>", b"png"), text="<of> a")

    shown = page.render()

    for text in ("Drift", "x", "fine", "careful", "cosine", "Numbers", "a", "b", "p", "of"):
        assert f"&lt;{text}&gt;" in shown, text
    assert "data:image/png;base64,cG5n" in shown
