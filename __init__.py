"""Deploys causal video diffusion models with a KV cache that is allocated once and never moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["VdmrtError", "load"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from .errors import VdmrtError
    from .runtime import load


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import vdmrt`` costs next to nothing."""
    if name == "load":
        from .runtime import load

        return load
    if name == "VdmrtError":
        from .errors import VdmrtError

        return VdmrtError
    raise AttributeError(f"module 'vdmrt' has no attribute {name!r}")
