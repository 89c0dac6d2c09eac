"""Operands of a call that a form replaces: their shapes and constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir
from onnx_ir.tape import Tape

from ...errors import BuildError

__all__ = ["DOMAIN", "Forms", "Made", "constant", "number_of", "reshape", "shape_of"]

DOMAIN = "com.microsoft"
# A form's name, and the value that replaces the call's output; None where the call is kept.
Made = tuple[str, ir.Value | None]
# By the function's name; each is called with a tape, the operands and the attributes of a call.
Forms = Mapping[str, Callable[..., Made]]


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """Return a static shape.

    Raises:
        BuildError: It is unknown.
    """
    if value.shape is None or not value.shape.is_static():
        raise BuildError(f"the shape of '{value.name}' is unknown; graphs of a bundle need static shapes; export again")
    return tuple(value.shape.numpy())


def number_of(value: ir.Value) -> float:
    """Return the number in a constant scalar.

    Raises:
        BuildError: It is not constant.
    """
    if value.const_value is None:
        raise BuildError(f"the scale '{value.name}' of an attention is not a constant of the graph; export again")
    return float(value.const_value.numpy())


def constant(tape: Tape, numbers: tuple[int, ...]) -> ir.Value:
    """Return a constant vector of integers."""
    return tape.op("Constant", [], {"value_ints": list(numbers)})


def reshape(tape: Tape, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
    """Return a value with another shape."""
    return tape.op("Reshape", [value, constant(tape, shape)])
