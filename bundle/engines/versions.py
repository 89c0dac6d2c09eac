"""Version numbers, for comparison."""

from __future__ import annotations

import re

__all__ = ["version_numbers"]


def version_numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (2, 13, 0) of "2.13.0+cpu"; empty if it starts with none."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
