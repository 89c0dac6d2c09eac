"""From a bundle to frames, without torch and without onnx."""

from __future__ import annotations

from .model import Model, load
from .session import Chunk, Noise, Session, Timings, advance

__all__ = ["Chunk", "Model", "Noise", "Session", "Timings", "advance", "load"]
