"""From a bundle to frames, without torch and without onnx."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import Model, load
    from .session import Chunk, Noise, Session, Timings, advance

__all__ = ["Chunk", "Model", "Noise", "Session", "Timings", "advance", "load"]

_HOMES = {
    "Chunk": "session",
    "Model": "model",
    "Noise": "session",
    "Session": "session",
    "Timings": "session",
    "advance": "session",
    "load": "model",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line shows its help without numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
