"""Deployment of causal video diffusion models with a KV cache that is allocated once and never moved."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["VdmrtError", "building", "bundle", "errors", "load", "media", "profiler", "runtime"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import building, bundle, errors, media, profiler, runtime
    from .errors import VdmrtError
    from .runtime import load

_HOMES = {"VdmrtError": "errors", "load": "runtime"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import vdmrt`` is fast."""
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'vdmrt' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, which are imported on first use."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
