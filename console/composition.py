"""Functions that commands need from folders they may not import; the command line puts them in click's context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..bundle import Bundle, Engine

__all__ = ["Composition"]


@dataclass(frozen=True)
class Composition:
    """Functions that combine several folders.

    Attributes:
        build: Builds an engine by a request and TensorRT's options, and checks it; see
            :func:`~vdmrt.building.build_engine`.
        write_polygraphy: Writes inputs to a folder and returns the Polygraphy commands that use them.
    """

    build: Callable[[Bundle, Any, Any], Engine]
    write_polygraphy: Callable[[Bundle, Path], list[str]]
