"""Quantities written for people: bytes, and counts of things."""

from __future__ import annotations

__all__ = ["format_count", "format_nbytes"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_count(count: int, noun: str) -> str:
    """Return a count with its noun, which gets an s unless there is one thing: "1 clip", "2 clips"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_nbytes(nbytes: float) -> str:
    """Return bytes in the largest binary unit that they fill, with three significant digits, as "7.03 MiB"."""
    power = 0
    while nbytes >= 1023.5 and power < len(_UNITS) - 1:
        nbytes /= 1024
        power += 1
    number = f"{nbytes:.0f}" if nbytes >= 100 else f"{nbytes:.3g}"  # .3g alone writes 1000 as 1e+03
    return f"{number} {_UNITS[power]}"
