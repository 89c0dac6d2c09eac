"""What this machine has, and the advice what to install."""

from __future__ import annotations

from .extras import needs_extra

__all__ = ["needs_extra"]
