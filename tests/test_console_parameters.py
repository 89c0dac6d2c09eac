"""Option types that several commands share."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from vdmrt.cli import main
from vdmrt.console.parameters import Number, Numbers, OutputFile
from vdmrt.media.clip_writer import WRITER_SUFFIXES


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "five", "", "-0.1", "1.5"])
def test_a_value_outside_the_bounds_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=f"wanted a number of at least 0, of at most 1, got '{text}'"):
        Number(0, 1).convert(text, None, None)


def test_a_lower_bound_can_be_left_out() -> None:
    with pytest.raises(click.BadParameter, match="wanted a number above 0, got '0'"):
        Number(above=0).convert("0", None, None)

    assert Number(above=0).convert("0.5", None, None) == 0.5
    assert Number().convert("-1e9", None, None) == -1e9


def test_numbers_between_commas_are_each_within_bounds() -> None:
    percents = Numbers(Number(above=0, high=100))

    assert percents.convert("50,99.5", None, None) == (50.0, 99.5)
    with pytest.raises(click.BadParameter, match="wanted a number above 0, of at most 100, got '101'"):
        percents.convert("50,101", None, None)


def test_an_output_has_one_of_the_given_suffixes(tmp_path: Path) -> None:
    assert OutputFile((".mp4", ".gif")).convert(str(tmp_path / "A.GIF"), None, None) == tmp_path / "A.GIF"
    with pytest.raises(click.BadParameter, match="a.avi' must end in .mp4 or .gif, got suffix '.avi'"):
        OutputFile((".mp4", ".gif")).convert(str(tmp_path / "a.avi"), None, None)


def test_an_output_is_checked_when_it_is_parsed(tmp_path: Path) -> None:
    with pytest.raises(click.BadParameter, match="there is no folder '.*missing'; make it first"):
        OutputFile().convert(str(tmp_path / "missing" / "page.html"), None, None)

    assert OutputFile().convert(str(tmp_path / "page.html"), None, None) == tmp_path / "page.html"
    assert list(tmp_path.iterdir()) == []


def test_an_output_without_a_known_suffix_is_refused(tmp_path: Path) -> None:
    kind = OutputFile((".mp4", ".gif"))

    with pytest.raises(click.BadParameter, match=r"out.avi' must end in .mp4 or .gif, got suffix '.avi'"):
        kind.convert(str(tmp_path / "out.avi"), None, None)
    assert kind.convert(str(tmp_path / "out.GIF"), None, None) == tmp_path / "out.GIF"


def test_run_accepts_the_suffixes_of_the_writer(tmp_path: Path) -> None:
    (output,) = (option for option in main.commands["run"].params if option.name == "output")
    assert isinstance(output.type, OutputFile)

    for suffix in WRITER_SUFFIXES:
        output.type.convert(str(tmp_path / f"out{suffix}"), None, None)


def test_no_file_of_a_bundle_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")

    with pytest.raises(click.BadParameter, match="model.json' is inside a bundle, .*; choose another folder"):
        OutputFile((".json",)).convert(str(tmp_path / "model.json"), None, None)
