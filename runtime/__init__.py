"""Runtime: generate frames from a bundle, without torch and onnx."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import offer as _offer

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

__getattr__, __dir__ = _offer(__name__, _HOMES)
