"""Formatting of quantities: bytes, operations and counts."""

from __future__ import annotations

__all__ = ["format_count", "format_flops", "format_nbytes"]


def format_count(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is 1: "1 clip", "2 clips"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_flops(flops: float) -> str:
    """Return floating-point operations with three significant digits, as "4.81 GFLOP"."""
    return _scale(flops, 1000, ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"))


def format_nbytes(nbytes: float) -> str:
    """Return bytes in binary units with three significant digits, as "7.03 MiB"."""
    return _scale(nbytes, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def _scale(number: float, base: int, units: tuple[str, ...]) -> str:
    power = 0
    while number >= base - 0.5 and power < len(units) - 1:  # values that round up to the next unit use that unit
        number /= base
        power += 1
    digits = f"{number:.0f}" if number >= 100 else f"{number:.3g}"  # .3g alone writes 1000 as 1e+03
    return f"{digits} {units[power]}"
