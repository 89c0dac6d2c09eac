"""Precisions of graphs, and their names."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "EIGHT_BITS",
    "EXPORTED",
    "FP8",
    "FP16",
    "FP16_MIXED",
    "FP32",
    "INT8",
    "PRECISIONS",
    "EightBits",
    "Precision",
]

Linears = Literal["fp32", "fp16", "mixed", "int8", "fp8"]
Floating = Literal["fp32", "fp16"]
EightBits = Literal["int8", "fp8"]
INT8: Final = "int8"
FP8: Final = "fp8"
# The 8 bit types that linears and caches may have.
EIGHT_BITS: tuple[EightBits, ...] = (INT8, FP8)

_CACHES: dict[EightBits | None, str] = {None: "", INT8: "kv8", FP8: "kvf8"}
_STEMS: dict[tuple[Linears, Floating], str] = {
    ("fp32", "fp32"): "fp32",
    ("fp16", "fp16"): "fp16",
    ("mixed", "fp16"): "fp16-mixed",
    ("int8", "fp32"): "int8",
    ("int8", "fp16"): "int8-fp16",
    ("fp8", "fp16"): "fp8",
}
_NAMES: dict[tuple[Linears, Floating, EightBits | None], str] = {
    (*stem, cache): f"{name}-{suffix}" if suffix else name
    for cache, suffix in _CACHES.items()
    for stem, name in _STEMS.items()
    if cache is None or stem[0] != "mixed"
}


@functools.total_ordering
@dataclass(frozen=True)
class Precision:
    """The precision of a bundle's graphs. Its ``str`` is its name in files, options and names of engines.

    Precisions are ordered by preference: floating point caches before 8 bit ones, then floating point linears before
    8 bit ones, then the more exact one.

    Attributes:
        linears: The type of the linears; "mixed" is FP16 with some layers in float32.
        around: The floating type of everything else. INT8 linears have float32 around them for ONNX Runtime's CPU
            provider and TensorRT 8.5, FP16 for TensorRT 10 and 11.
        cache: The 8 bit type of the KV cache; None where it is floating point.

    Raises:
        ValueError: There is no such combination.
    """

    linears: Linears
    around: Floating
    cache: EightBits | None = None

    def __post_init__(self) -> None:
        if (self.linears, self.around, self.cache) not in _NAMES:
            raise ValueError(f"there is no precision {self!r}; there are {', '.join(_NAMES.values())}")

    def __str__(self) -> str:
        return _NAMES[self.linears, self.around, self.cache]

    def __lt__(self, other: Precision) -> bool:
        return PRECISIONS.index(self) < PRECISIONS.index(other)

    @classmethod
    def parse(cls, precision: Precision | str) -> Precision:
        """Return the precision with a name; a :class:`Precision` is returned unchanged.

        Raises:
            ValueError: There is no such precision; the message lists all precisions.
        """
        found = next((one for one in PRECISIONS if precision in (one, str(one))), None)
        if found is None:
            raise ValueError(f"precision must be one of {', '.join(_NAMES.values())}, got {precision!r}")
        return found

    @property
    def is_exported(self) -> bool:
        """Whether ``vdmrt export`` makes it; otherwise ``vdmrt calibrate`` does."""
        return self in EXPORTED

    @property
    def cache_name(self) -> str:
        """The part of its name that is the cache's, as "kv8"; "" where the cache is floating point."""
        return _CACHES[self.cache]

    @property
    def is_quantized(self) -> bool:
        """Whether its linears or its cache are 8 bit."""
        return self.linears in EIGHT_BITS or self.cache is not None


PRECISIONS = tuple(Precision(*fields) for fields in _NAMES)
FP32, FP16, FP16_MIXED = PRECISIONS[:3]
EXPORTED = (FP32, FP16)
