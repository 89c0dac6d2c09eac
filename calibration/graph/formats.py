"""The two 8 bit types: INT8, even steps; FP8 E4M3, even steps in the logarithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import FP8, INT8

if TYPE_CHECKING:
    from ...bundle import EightBits

__all__ = ["FORMATS", "Format", "fp16_scale"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Format:
    """An 8 bit type, symmetric about zero.

    Attributes:
        name: "int8" or "fp8".
        largest: The largest value it holds; a tensor's scale is its amax over this.
        dtype: Its name in model.json.
    """

    name: EightBits
    largest: float
    dtype: str

    @property
    def onnx_type(self) -> int:
        """ONNX's number of the type."""
        from onnx import TensorProto

        return int(TensorProto.INT8 if self.name == INT8 else TensorProto.FLOAT8E4M3FN)

    def encode(self, values: Array) -> Array:
        """Return the stored bytes of values in units of the scale: int8, or E4M3 as uint8. Ties round to even."""
        if self.name == INT8:
            levels: Array = np.clip(np.rint(values), -127, 127).astype(np.int8)
            return levels
        magnitudes = np.minimum(np.abs(values), self.largest).astype(np.float64)
        codes = np.searchsorted(_MIDDLES, magnitudes, side="left")
        # Halfway between two values the even code is taken, as in IEEE 754.
        tied = (codes < len(_MIDDLES)) & (_MIDDLES[np.minimum(codes, len(_MIDDLES) - 1)] == magnitudes)
        codes = codes + (tied & (codes % 2 == 1))
        stored: Array = (codes + 128 * np.signbit(values)).astype(np.uint8)
        return stored

    def decode(self, stored: Array) -> Array:
        """Return the values of stored bytes, in units of the scale, float32."""
        if self.name == INT8:
            return stored.astype(np.float32)
        signs = np.where(stored < 128, 1.0, -1.0).astype(np.float32)
        values: Array = signs * _VALUES[stored % 128].astype(np.float32)
        return values

    def rounding_error(self, values: Floats, clip: float) -> Floats:
        """Return the expected squared error of rounding positive values up to ``clip``, the largest value."""
        if self.name == INT8:
            step: Floats | float = clip / self.largest
        else:
            # Three bits of mantissa: eight steps in each octave, and even ones below the least normal number.
            octave = np.floor(np.log2(np.maximum(values / clip * self.largest, 2.0**-6)))
            step = 2.0 ** (octave - 3) * clip / self.largest
        even: Floats = np.where(values < step / 2, values**2, np.square(step) / 12)
        return even


def fp16_scale(amax: Array, largest: float) -> npt.NDArray[np.float32]:
    """Return ``amax / largest`` rounded up to an FP16 number, so that both renderings share one scale.

    Where all observed values are zero, the scale is 1.
    """
    wanted = np.asarray(amax, np.float32) / np.float32(largest)
    wanted = np.where(wanted > 0, np.maximum(wanted, _LEAST), np.float32(1))
    half = wanted.astype(np.float16)
    raised = np.where(half.astype(np.float32) < wanted, np.nextafter(half, np.float16(np.inf)), half)
    return np.asarray(raised, np.float32)


def _e4m3_values() -> Floats:
    """Return the 127 finite values from 0 to 448, by code."""
    codes = np.arange(127)
    exponent, mantissa = codes >> 3, codes & 7
    values: Floats = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10))
    return values


_VALUES = _e4m3_values()
_MIDDLES = (_VALUES[1:] + _VALUES[:-1]) / 2
# The least normal number of FP16: smaller scales would lose bits, and some GPUs flush them to zero.
_LEAST = np.float32(2.0**-14)
FORMATS: dict[EightBits, Format] = {
    INT8: Format(INT8, 127.0, np.dtype(np.int8).name),
    FP8: Format(FP8, 448.0, "float8_e4m3fn"),
}
