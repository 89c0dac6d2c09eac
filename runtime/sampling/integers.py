"""Whole numbers among the arguments of a call."""

from __future__ import annotations

import operator

__all__ = ["whole"]


def whole(name: str, value: object) -> int:
    """Return ``value`` as an int, where it is a whole number: an int or one of numpy's integers, but no bool.

    Raises:
        TypeError: It is something else; ``name`` is the argument's.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise TypeError(f"{name} must be a whole number, got {value!r}")
