"""Request of a calibration: the options of ``vdmrt calibrate``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ..bundle import FP8, FP16, FP32, INT8, EightBits, Precision
from ..runtime.sampling.sampling_options import SamplingOptions

if TYPE_CHECKING:
    from .graph.rounding import Rounding
    from .observe.ranges import Method

__all__ = ["CACHE_ALONE", "MIXED", "CalibrationRequest"]

# Values of --precision beside those of the linears: the cache alone, and FP16 with some layers in float32.
CACHE_ALONE: Final = "none"
MIXED = str(FP16)

Target = EightBits | Literal["none"]


@dataclass(frozen=True)
class CalibrationRequest(SamplingOptions):
    """Options of ``vdmrt calibrate``; those of sampling apply to the observed rollouts.

    Attributes:
        bundle: The bundle's folder.
        data: Clips or latents, a file or a folder.
        precision: "int8" or "fp8" for the linears, "none" for the cache alone.
        samples: Least number of denoising runs to observe.
        method: Method by which ranges are chosen.
        smooth: SmoothQuant's alpha, 0 for none.
        rounding: Rounding of weights: "gptq", which compensates earlier errors, or "nearest".
        keep: Patterns of linears that stay in floating point.
        budget: Least PSNR in dB against float32 over short rollouts, for which the most sensitive groups of layers
            stay in floating point; None for no such search.
        keep_fill: Whether the linears of the cache fill stay in floating point: it runs once a chunk, and its
            rounding errors stay in the cache.
        kv: "int8" or "fp8" for a quantized cache, or None.
        seed: Seed of all noise and choices.
        threads: Threads of the CPU provider.
        observations: Folder that keeps the statistics for further calibrations on the same data; None keeps them in
            the bundle until the graphs are written.
    """

    bundle: Path
    data: Path
    precision: Target = INT8
    samples: int = 96
    method: Method = "mse"
    smooth: float = 0.5
    rounding: Rounding = "gptq"
    keep: tuple[str, ...] = ()
    budget: float | None = None
    keep_fill: bool = False
    kv: EightBits | None = None
    seed: int = 0
    threads: int | None = None
    observations: Path | None = None

    def __post_init__(self) -> None:
        SamplingOptions.__post_init__(self)
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise ValueError(f"--budget must be a finite number of dB above 0, got {self.budget}")
        if self.precision == CACHE_ALONE and self.kv is None:
            raise ValueError("--precision none quantizes no linear, so it needs --kv int8 or fp8")
        if self.budget is not None and self.precision == CACHE_ALONE:
            raise ValueError("--budget chooses among linears, so it needs --precision int8 or fp8")

    def quantized(self, floating: Precision) -> Precision:
        """Return the precision that results from the graphs of a floating-point precision."""
        linears = floating.linears if self.precision == CACHE_ALONE else self.precision
        return Precision(linears, floating.around, self.kv)

    @property
    def stem(self) -> str:
        """Stem of the names of files that all renderings share."""
        made = self.quantized(FP16 if self.precision == FP8 else FP32)
        return made.cache_name if self.precision == CACHE_ALONE else str(made)
