"""Error messages with arguments spelled as command-line options."""

from __future__ import annotations

import click
import pytest

from vdmrt.console.spelling import spell_options


@click.command()
@click.argument("bundle")
@click.option("--device")
@click.option("--max-steps", type=int)
@click.option("--precision", "precisions", multiple=True)
@click.option("--force", is_flag=True)
def command(**given: object) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("sentence", "spelled"),
    [
        ("choose device='cuda:1', or leave it", "choose --device cuda:1, or leave it"),
        ("got max_steps=7; use max_steps=4.", "got --max-steps 7; use --max-steps 4."),
        ("load with precision='fp16'", "load with --precision fp16"),
        ("with eta=0.5, heads=4", "with eta=0.5, heads=4"),
        ("bundle='it' and force=True", "bundle='it' and force=True"),
        ("device is 'cuda'", "device is 'cuda'"),
    ],
)
def test_arguments_become_options_of_the_command(sentence: str, spelled: str) -> None:
    assert spell_options(sentence, command) == spelled
