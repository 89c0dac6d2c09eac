"""Pictures and clips: reading, writing, and the commands that generate them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pictures import fit_pictures

__all__ = ["fit_pictures"]

_HOMES = {"fit_pictures": "pictures"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line shows its help without importing numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the names of the package; they are imported on first use."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
