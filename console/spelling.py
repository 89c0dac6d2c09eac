"""Error messages of the library, with argument names replaced by a command's options."""

from __future__ import annotations

import re

import click

__all__ = ["spell_options"]

_ARGUMENT = re.compile(r"\b([a-z_]\w*)=('[^']*'|[\w.+-]*\w)")


def spell_options(sentence: str, command: click.Command) -> str:
    """Replace ``name='value'`` by ``--name value`` for every option of the command.

    Args:
        sentence: An error's message. By convention it names an argument with its value in Python's notation.
        command: The command that was run.
    """
    names = {
        spelling.lstrip("-").replace("-", "_"): spelling
        for option in command.params
        if isinstance(option, click.Option) and not option.is_flag
        for spelling in option.opts
    }

    def spell(found: re.Match[str]) -> str:
        option = names.get(found[1])
        return found[0] if option is None else f"{option} {found[2].strip(chr(39))}"

    return _ARGUMENT.sub(spell, sentence)
