"""Types of options that several commands take."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from vdmrt.console.parameters import Number, OutputFile


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "five", "", "-0.1", "1.5"])
def test_what_is_no_number_within_bounds_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=f"wanted a number of at least 0, of at most 1, got '{text}'"):
        Number(0, 1).convert(text, None, None)


def test_a_lower_bound_can_be_left_out() -> None:
    with pytest.raises(click.BadParameter, match="wanted a number above 0, got '0'"):
        Number(above=0).convert("0", None, None)

    assert Number(above=0).convert("0.5", None, None) == 0.5
    assert Number().convert("-1e9", None, None) == -1e9


def test_an_output_is_checked_when_it_is_parsed(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter, match="there is no folder '.*missing'; make it first"):
        OutputFile().convert(str(tmp_path / "missing" / "page.html"), None, None)

    assert OutputFile().convert(str(tmp_path / "page.html"), None, None) == tmp_path / "page.html"
    assert list(tmp_path.iterdir()) == []
