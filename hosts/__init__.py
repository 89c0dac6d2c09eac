"""What this machine has, and the advice what to install."""

from __future__ import annotations

from .extras import describe_missing, need_packages, needs_extra

__all__ = ["describe_missing", "need_packages", "needs_extra"]
