"""The names of precisions: what the linears are, and after it what the cache is."""

from __future__ import annotations

from typing import Literal

__all__ = ["CACHE_SUFFIXES", "Precision", "split_precision"]

# "int8" has float32 around its products (ONNX Runtime's CPU provider, TensorRT 8.5); "int8-fp16" and "fp8" have FP16
# (TensorRT 10 and 11); "fp16-mixed" is FP16 with some layers in float32. "-kv8" adds an INT8 cache, "-kvf8" one of FP8.
Precision = Literal[
    "fp32", "fp16", "fp16-mixed", "int8", "int8-fp16", "fp8",
    "fp32-kv8", "fp16-kv8", "int8-kv8", "int8-fp16-kv8", "fp8-kv8",
    "fp32-kvf8", "fp16-kvf8", "int8-kvf8", "int8-fp16-kvf8", "fp8-kvf8",
]  # fmt: skip
CACHE_SUFFIXES: dict[Literal["int8", "fp8"], str] = {"int8": "-kv8", "fp8": "-kvf8"}


def split_precision(precision: str) -> tuple[str, Literal["int8", "fp8"] | None]:
    """Return what a precision is but for its cache, and the 8 bit type of its cache; None where it has none."""
    for kind, suffix in CACHE_SUFFIXES.items():
        if precision.endswith(suffix):
            return precision.removesuffix(suffix), kind
    return precision, None
