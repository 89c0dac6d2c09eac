"""Runtime: generate frames from a bundle, without torch and onnx."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sampling.noise import Noise
    from .session.advance import advance
    from .session.chunk import Chunk, Timings
    from .session.loading import load
    from .session.model import Model
    from .session.session import Session

__all__ = ["Chunk", "Model", "Noise", "Session", "Timings", "advance", "load"]

_HOMES = {
    "Chunk": "session.chunk",
    "Model": "session.model",
    "Noise": "sampling.noise",
    "Session": "session.session",
    "Timings": "session.chunk",
    "advance": "session.advance",
    "load": "session.loading",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line shows its help without numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    """List the public names, which are imported on first use."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
