"""Options generated from a dataclass, and passed to a command as one object."""

from __future__ import annotations

from dataclasses import dataclass

import click
import pytest
from click.testing import CliRunner

from vdmrt.console.options import Option, gather, options_of


@dataclass(frozen=True)
class Settings:
    """The command's settings."""

    count: int = 3
    bounds: tuple[float, ...] = (90.0, 99.5)
    fast: bool = True
    loud: bool = False

    def __post_init__(self) -> None:
        if self.count > 5:
            raise ValueError(f"count must be at most 5, got {self.count}")


@click.command()
@options_of(
    Settings,
    count=Option("How many.", click.IntRange(1)),
    bounds=Option("Bounds.", click.STRING, names=("--bound",)),
    fast=Option("Whether it is fast."),
    loud=Option("Whether it is loud."),
)
@click.option("--json", "as_json", is_flag=True)
@gather("settings", Settings)
def command(settings: Settings, as_json: bool) -> None:
    click.echo(f"{settings} {as_json}")


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        ([], "Settings(count=3, bounds='90,99.5', fast=True, loud=False) False"),
        (
            ["--count", "4", "--no-fast", "--loud", "--bound", "7", "--json"],
            "Settings(count=4, bounds='7', fast=False, loud=True) True",
        ),
    ],
)
def test_a_command_gets_one_object(arguments: list[str], printed: str) -> None:
    assert CliRunner().invoke(command, arguments).stdout.strip() == printed


def test_defaults_are_shown_as_a_user_writes_them() -> None:
    lines = CliRunner().invoke(command, ["--help"]).stdout.splitlines()

    assert [line.partition("[")[2] for line in lines if "[default" in line] == [
        "default: 3; x>=1]",
        "default: 90,99.5]",
    ]


def test_errors_of_the_dataclass_are_raised_to_the_caller() -> None:
    found = CliRunner().invoke(command, ["--count", "6"]).exception

    assert str(found) == "count must be at most 5, got 6"
