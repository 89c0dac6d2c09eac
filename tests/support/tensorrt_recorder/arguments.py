"""Checks of a call's arguments, as pybind11 does them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

from .names import Signature

__all__ = ["bind", "is_of_type"]

# Type of an argument by its name, where the release's text has no types; pybind11 accepts every int-like object for an
# int.
_KINDS: Mapping[str, str] = {
    "name": "str", "memory": "int", "size": "int", "stream_handle": "int", "pool_size": "int", "index": "int",
    "flags": "int", "tactic_sources": "int",
}  # fmt: skip
_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "bool": lambda value: isinstance(value, (bool, int)),
    "buffer": memoryview,
    "float": lambda value: not isinstance(value, str) and float(value) is not None,
    "int": operator.index,
    "list": lambda value: isinstance(value, list),
    "Sequence": lambda value: isinstance(value, (list, tuple)),
    "str": lambda value: isinstance(value, str),
    "tuple": lambda value: isinstance(value, tuple),
}


def bind(
    module: Any,
    owner: str,
    name: str,
    signatures: tuple[Signature, ...],
    arguments: tuple[Any, ...],
    named: dict[str, Any],
) -> dict[str, Any]:
    """Return the arguments by name, of the first signature that they fit.

    Raises:
        TypeError: They fit no signature.
    """
    for signature in signatures:
        bound = _match(module, signature, arguments, named)
        if bound is not None:
            return bound
    wanted = " or ".join(f"{name}({', '.join(signature.arguments)})" for signature in signatures)
    raise TypeError(
        f"{name}(): incompatible function arguments. The following argument types are supported: {owner}.{wanted}. "
        f"Invoked with: {arguments}, {named}"
    )


def is_of_type(module: Any, kind: str, value: Any) -> bool:
    """Return whether a value may be passed for a type's name; nothing is of a class that the module lacks."""
    if kind in _CHECKS:
        try:
            return _CHECKS[kind](value) is not False
        except TypeError:
            return False
    wanted = functools.reduce(lambda found, part: getattr(found, part, None), kind.split("."), module)
    return wanted is not None and isinstance(value, wanted)


def _match(
    module: Any, signature: Signature, arguments: tuple[Any, ...], named: dict[str, Any]
) -> dict[str, Any] | None:
    if len(arguments) > len(signature.arguments):
        return None
    bound = dict(zip(signature.arguments, arguments, strict=False))
    if set(named) & set(bound) or set(named) - set(signature.arguments):
        return None
    bound.update(named)
    if set(signature.arguments) - set(bound) - signature.optional:
        return None
    fits = all(_fits(module, signature, name, value) for name, value in bound.items())
    return bound if fits else None


def _fits(module: Any, signature: Signature, name: str, value: Any) -> bool:
    kind = signature.types.get(name) or _KINDS.get(name)
    left_out = value is None and name in signature.optional
    return kind is None or left_out or is_of_type(module, kind, value)
