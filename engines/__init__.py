"""What a bundle costs to run, and whether it will."""

from __future__ import annotations

from .inspection import cache_nbytes, inspect_bundle, render_inspection

__all__ = ["cache_nbytes", "inspect_bundle", "render_inspection"]
