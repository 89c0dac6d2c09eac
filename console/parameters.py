"""Option types that several commands share. Each rejects a bad value before the command starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from ..bundle import check_writable

__all__ = ["Number", "Numbers", "OutputFile"]


class Number(click.ParamType[float]):
    """A finite number within bounds; NaN and infinities are rejected."""

    name = "NUMBER"

    def __init__(self, low: float | None = None, high: float | None = None, *, above: float | None = None) -> None:
        """Accept ``low <= number <= high`` and ``above < number``; None for no bound."""
        self._low, self._high, self._above = low, high, above

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the option."""
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        is_inside = (
            math.isfinite(number)
            and (self._low is None or number >= self._low)
            and (self._high is None or number <= self._high)
            and (self._above is None or number > self._above)
        )
        if not is_inside:
            self.fail(f"wanted a number{self._describe()}, got {value!r}", param, ctx)
        return number

    def _describe(self) -> str:
        bounds = ((" of at least", self._low), (" above", self._above), (" of at most", self._high))
        return ",".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers separated by commas, all within the same bounds."""

    name = "NUMBERS"

    def __init__(self, each: Number) -> None:
        """Accept one or more values of ``each``."""
        self._each = each

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse the option."""
        return tuple(self._each.convert(part, param, ctx) for part in str(value).split(","))


class OutputFile(click.ParamType[Path]):
    """A file to write: its folder exists, is writable and no bundle, and only a regular file is replaced."""

    name = "FILE"

    def __init__(self, suffixes: tuple[str, ...] = ()) -> None:
        """Accept names that end in one of ``suffixes``, ignoring case; any name without suffixes."""
        self._suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Check the path; the file itself is written at the end, atomically."""

        def fail(message: str) -> Exception:
            return click.BadParameter(message, ctx, param)

        path = Path(value)
        if self._suffixes and path.suffix.lower() not in self._suffixes:
            raise fail(f"'{path}' must end in {' or '.join(self._suffixes)}, got suffix {path.suffix!r}")
        if any((folder / "model.json").is_file() for folder in path.resolve().parents):
            raise fail(f"'{path}' is inside a bundle, whose files it could replace; choose another folder")
        check_writable(path, fail=fail)
        return path
