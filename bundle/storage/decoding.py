"""Conversion between parsed JSON and dataclasses; errors carry the path inside the document."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, TypeVar

from ..precision import Precision

__all__ = ["InvalidDocument", "decode", "encode"]


class InvalidDocument(ValueError):
    """A value does not match the schema; ``field`` is its path."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.field = path


_T = TypeVar("_T")


def decode(kind: type[_T], value: Any, path: str) -> _T:
    """Build a dataclass from parsed JSON; errors carry the path inside the document."""
    wanted = typing.get_type_hints(kind)
    if not isinstance(value, dict):
        raise InvalidDocument(path, f"wanted an object, found {_kind(value)}")
    unknown = sorted(set(value) - set(wanted))
    if unknown:
        raise InvalidDocument(path, f"unknown name {unknown[0]!r}; known are {', '.join(wanted)}")
    arguments = {}
    for member in dataclasses.fields(kind):  # type: ignore[arg-type]
        here = f"{path}.{member.name}" if path else member.name
        if member.name in value:
            arguments[member.name] = _decode_value(wanted[member.name], value[member.name], here)
        elif member.default is dataclasses.MISSING:
            raise InvalidDocument(here, "is missing")
    try:
        return kind(**arguments)
    except ValueError as error:
        raise InvalidDocument(path, str(error)) from error


def encode(value: Any) -> Any:
    """Convert dataclasses, mappings and sequences to JSON values; a precision becomes its name."""
    if isinstance(value, Precision):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {member.name: encode(getattr(value, member.name)) for member in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {encode(name): encode(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def _decode_value(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise InvalidDocument(path, f"wanted one of {', '.join(map(repr, arguments))}, found {value!r}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _decode_value(next(part for part in arguments if part is not type(None)), value, path)
    if origin is tuple:
        items = _expect(value, list, path)
        return tuple(_decode_value(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(items))
    if origin is not None and issubclass(origin, Mapping):
        entries = _expect(value, dict, path)
        return {
            _decode_value(arguments[0], name, f"{path}.{name}"): _decode_value(arguments[1], item, f"{path}.{name}")
            for name, item in entries.items()
        }
    if kind is Precision:
        return _decode_precision(_expect(value, str, path), path)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return decode(kind, value, path)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _decode_member(kind, value, path)
    return _expect(value, kind, path)


def _decode_precision(name: str, path: str) -> Precision:
    try:
        return Precision.parse(name)
    except ValueError as error:
        raise InvalidDocument(path, str(error)) from error


def _decode_member(kind: type[Enum], value: Any, path: str) -> Enum:
    known = {member.value: member for member in kind}
    if not isinstance(value, str) or value not in known:
        raise InvalidDocument(path, f"wanted one of {', '.join(map(repr, known))}, found {value!r}")
    return known[value]


def _expect(value: Any, kind: type[_T], path: str) -> _T:
    if kind is float and type(value) is int:
        return float(value)  # type: ignore[return-value]
    if type(value) is not kind:
        raise InvalidDocument(path, f"wanted {_NAMES.get(kind, kind.__name__)}, found {_kind(value)}")
    return value


_NAMES = {
    dict: "an object", list: "a list", str: "a string", int: "an integer", float: "a number", bool: "true or false",
}  # fmt: skip


def _kind(value: Any) -> str:
    if isinstance(value, (dict, list)) or value is None:
        return "null" if value is None else _NAMES[type(value)]
    return repr(value)
