"""An axis of a chart: maps values to drawing units, and chooses round ticks with distinct labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Axis"]

# A range narrower than this share of its values is rounding noise and is shown as one value.
_NARROWEST = 1e-9
# A range narrower than this cannot be divided: its parts are not normal float64 numbers.
_SMALLEST = 1e-300
_TICKS = 6
# Labels below the first and from the second on have an exponent.
_SMALL, _LARGE = 1e-3, 1e6


@dataclass(frozen=True)
class Axis:
    """A linear axis.

    Attributes:
        low: The value at its start.
        high: The value at its end.
        start: Position of its start, in drawing units.
        end: Position of its end; less than ``start`` on an axis that points upwards.
        ticks: Values, in ascending order, and their labels.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]

    @classmethod
    def cover(
        cls, values: Sequence[float], start: float, end: float, *, whole: bool = False, rounded: bool = False
    ) -> Axis:
        """Return an axis over finite values.

        Args:
            values: Values to cover; an empty sequence covers 0 to 1.
            start: Position of its start, in drawing units.
            end: Position of its end.
            whole: Whether ticks are whole numbers only.
            rounded: Whether it starts and ends at a tick.
        """
        low, high = _widen(min(values, default=0.0), max(values, default=1.0))
        power, step = _round_step((high - low) / _TICKS, whole=whole)
        if rounded:
            low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
        numbers = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
        places = [number * step for number in numbers]
        return cls(low, high, start, end, tuple(zip(places, _label(places, power), strict=True)))

    def place(self, value: float) -> float:
        """Return the position of a value, in drawing units."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _widen(low: float, high: float) -> tuple[float, float]:
    """Return a range that is wide enough to be divided."""
    largest = max(abs(low), abs(high))
    if high - low > max(_NARROWEST * largest, _SMALLEST):
        return low, high
    middle, margin = (low + high) / 2, 0.05 * largest
    return (middle - margin, middle + margin) if largest > _SMALLEST else (0.0, 1.0)


def _round_step(least: float, *, whole: bool) -> tuple[int, float]:
    """Return a power of ten and 1, 2 or 5 times that power, the step, which is at least ``least``."""
    least = max(least, 1.0) if whole else least
    power = math.floor(math.log10(least))
    factor = next((factor for factor in (1, 2, 5) if factor * 10.0**power >= least * (1 - 1e-9)), 10)
    return (power, factor * 10.0**power) if factor < 10 else (power + 1, 10.0 ** (power + 1))


def _label(places: Sequence[float], power: int) -> list[str]:
    """Return a label for each tick, with enough digits to tell neighbors apart."""
    largest = max(map(abs, places), default=0.0)
    if largest == 0 or _SMALL <= largest < _LARGE:
        return [f"{place:.{max(0, -power)}f}" for place in places]
    digits = max(0, math.floor(math.log10(largest) + 1e-9) - power)
    return ["0" if place == 0 else f"{place:.{digits}e}" for place in places]
