"""Validation of integer arguments."""

from __future__ import annotations

import operator

__all__ = ["whole"]


def whole(name: str, value: object) -> int:
    """Return ``value`` as an int if it is an int or a numpy integer, but not a bool.

    Raises:
        TypeError: ``value`` has another type; the message contains ``name``.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise TypeError(f"{name} must be a whole number, got {value!r}")
