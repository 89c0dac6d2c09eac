"""Versions as numbers, to be compared."""

from __future__ import annotations

import re

__all__ = ["version_numbers"]


def version_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: of "2.13.0+cpu" (2, 13, 0); none where it begins with none."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
