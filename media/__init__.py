"""Pictures and clips: reading, writing, and the commands that generate them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import offer as _offer

if TYPE_CHECKING:
    from .pictures import fit_pictures

__all__ = ["fit_pictures"]

_HOMES = {"fit_pictures": "pictures"}

__getattr__, __dir__ = _offer(__name__, _HOMES)
