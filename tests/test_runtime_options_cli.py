"""The options that commands share: one for each field of the dataclass that takes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from vdmrt.cli import main
from vdmrt.profiler import Settings
from vdmrt.runtime.backends.load_options import LoadOptions
from vdmrt.runtime.sampling.sampling_options import SamplingOptions


def defaults(command: list[str], section: str) -> dict[str, Any]:
    """Return the values of the options in a section of a command's help where none of them is given."""
    found = main.commands[command[0]]
    names = {one.name for one in found.params if getattr(one, "section", "") == section}
    values = found.make_context(command[0], command[1:]).params
    return {name: value for name, value in values.items() if name in names}


@pytest.mark.parametrize("command", [["run", "bundle", "--output", "out.npy"], ["profile", "bundle"], ["demo"]])
def test_what_loads_a_bundle_has_every_option_of_loading_and_its_default(command: list[str]) -> None:
    found = defaults(command, "What runs it")

    assert found.keys() == {field.name for field in dataclasses.fields(LoadOptions)}
    assert LoadOptions(**found) == LoadOptions()


@pytest.mark.parametrize(
    "command",
    [["run", "bundle", "--output", "out.npy"], ["profile", "bundle"], ["calibrate", "bundle"], ["verify", "bundle"]],
)
def test_what_makes_rollouts_has_every_option_of_sampling_and_its_default(command: list[str]) -> None:
    found = defaults(command, "Sampling")

    assert found.keys() == {field.name for field in dataclasses.fields(SamplingOptions)}
    assert SamplingOptions(**found) == SamplingOptions()


def test_help_shows_the_shared_options_under_their_titles() -> None:
    text = CliRunner().invoke(main, ["profile", "--help"]).stdout
    titles = ["Options:", "Sampling:", "What runs it:"]

    assert [line for line in text.splitlines() if line in titles] == titles
    assert text.index("Sampling:") < text.index("--guidance") < text.index("What runs it:") < text.index("--device")


def test_every_option_says_what_it_does() -> None:
    for command in main.commands.values():
        for param in command.params:
            if isinstance(param, click.Option):
                assert param.help, (command.name, param.name)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"sampler": "euler"}, "sampler must be one of iddpm, .*, got 'euler'"),
        ({"guidance": float("inf")}, "guidance must be finite, got inf"),
        ({"prefix_noise": -1}, "must be a training timestep of at least 0, got -1"),
        ({"text_mask": Path("mask.npy")}, "got only the mask 'mask.npy'"),
        ({"threads": 0}, "threads must be 1 <= threads <= .*, got 0"),
        ({"backend": "foo"}, "backend must be auto or one of tensorrt, tensorrt-rtx, onnxruntime, got 'foo'"),
    ],
)
def test_requests_refuse_what_is_out_of_range(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Settings(Path("bundle"), **given)  # type: ignore[arg-type]
