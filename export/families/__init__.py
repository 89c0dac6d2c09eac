"""Registry of the model families that can be exported. A family's modules are imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ...errors import ExportError
from .family import Family

__all__ = ["DEFAULT_FAMILY", "Family", "family_names", "find_family", "find_preset", "register_family"]

# Family of a configuration that names none.
DEFAULT_FAMILY = "ca2vdm"
# Modules that define the families of this package as ``FAMILY``.
_MODULES: Mapping[str, str] = {"ca2vdm": ".ca2vdm.family"}
_registered: dict[str, Family[Any, Any]] = {}


def register_family(family: Family[Any, Any]) -> None:
    """Register a family under its name; the caller keeps its module imported.

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
    """Return the family with a name.

    Raises:
        ExportError: There is no such family.
    """
    if name in _MODULES:
        family: Family[Any, Any] = importlib.import_module(_MODULES[name], __name__).FAMILY
        return family
    if name not in _registered:
        raise ExportError(f"unknown family {name!r}; known are {', '.join(family_names())}")
    return _registered[name]


def find_preset(name: str) -> Family[Any, Any] | None:
    """Return the family that has a preset with that name, or None."""
    return next((family for family in map(find_family, family_names()) if name in family.presets), None)
