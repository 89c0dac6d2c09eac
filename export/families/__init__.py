"""The model families that can be exported, by name. A family's modules are imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ...errors import ExportError
from .family import Family

__all__ = ["DEFAULT_FAMILY", "Family", "family_names", "find_family", "find_preset", "register_family"]

# What a configuration is of that names no family.
DEFAULT_FAMILY = "ca2vdm"
# The module that holds a family of this package as ``FAMILY``.
_MODULES: Mapping[str, str] = {"ca2vdm": ".ca2vdm.family"}
_registered: dict[str, Family[Any, Any]] = {}


def register_family(family: Family[Any, Any]) -> None:
    """Make a family known under its name; whoever calls it keeps the module imported.

    Raises:
        ValueError: Another family has that name.
    """
    if family.name in _MODULES or _registered.get(family.name, family) is not family:
        raise ValueError(f"there is a family {family.name!r} already; register it under another name")
    _registered[family.name] = family


def family_names() -> tuple[str, ...]:
    """Return the names of all families."""
    return (*_MODULES, *_registered)


def find_family(name: str) -> Family[Any, Any]:
    """Return the family of a name.

    Raises:
        ExportError: There is none.
    """
    if name in _MODULES:
        family: Family[Any, Any] = importlib.import_module(_MODULES[name], __name__).FAMILY
        return family
    if name not in _registered:
        raise ExportError(f"unknown family {name!r}; known are {', '.join(family_names())}")
    return _registered[name]


def find_preset(name: str) -> Family[Any, Any] | None:
    """Return the family that has a preset of that name; None where no family has."""
    return next((family for family in map(find_family, family_names()) if name in family.presets), None)
