"""Command options generated from the fields of a dataclass, and passed to the command as one object."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from .sections import SharedOption

__all__ = ["FIELD", "Option", "gather", "options_of"]

F = TypeVar("F", bound=Callable[..., Any])
_OWN = "Options"
FIELD: Any = object()
"""Stands for the default of a dataclass' field."""


@dataclass(frozen=True)
class Option:
    """The option for a field of a dataclass. Its default is the field's.

    Attributes:
        help: Help text.
        type: Type of its value; None for a flag, which is ``--name/--no-name`` where it is on by default.
        names: Its names; empty for ``--name`` derived from the field's name.
        metavar: Placeholder of its value in the help; None for the type's name.
        multiple: Whether it may be given several times.
        default: As somebody would write it; :data:`FIELD` takes the field's.
    """

    help: str
    type: click.ParamType[Any] | None = None
    names: tuple[str, ...] = ()
    metavar: str | None = None
    multiple: bool = False
    default: Any = FIELD


def options_of(settings: type[Any], section: str = _OWN, **options: Option) -> Callable[[F], F]:
    """Add options to a command.

    Args:
        settings: The dataclass.
        section: Title of the options in the help.
        options: Options by field name.
    """
    defaults = {one.name: _default_of(one) for one in dataclasses.fields(settings)}
    made = [_make_option(name, defaults[name], section, option) for name, option in options.items()]

    def add(command: F) -> F:
        for decorate in reversed(made):
            command = decorate(command)
        return command

    return add


def gather(name: str, settings: type[Any], make: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """Pass a command one object instead of the parameters named like a dataclass' fields.

    Args:
        name: The command's parameter that receives it.
        settings: The dataclass.
        make: Called with those parameters instead of ``settings``.
    """
    fields = {one.name for one in dataclasses.fields(settings)}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(**given: Any) -> Any:
            taken = {key: given.pop(key) for key in fields & given.keys()}
            return command(**given, **{name: (make or settings)(**taken)})

        return run

    return decorate


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _make_option(name: str, default: Any, section: str, option: Option) -> Callable[[F], F]:
    if option.default is not FIELD:
        default = option.default
    names = option.names or (f"--{name.replace('_', '-')}",)
    if isinstance(default, tuple) and default and not option.multiple:  # as a user writes it
        default = ",".join(f"{one:g}" for one in default)
    given: dict[str, Any] = {"type": option.type, "metavar": option.metavar, "multiple": option.multiple}
    if option.type is None:
        given = {"is_flag": True}
        names = names if option.names or not default else (f"{names[0]}/--no-{names[0][2:]}",)
    return click.option(
        *names,
        name,
        cls=SharedOption,
        section=section,
        default=default,
        show_default=not (default in (None, ()) or isinstance(default, bool) or option.multiple),
        help=option.help,
        **given,
    )
