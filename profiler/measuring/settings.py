"""Settings of a profile: the options of ``vdmrt profile``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ...runtime.backends.load_options import LoadOptions
from ...runtime.sampling.sampling_options import SamplingOptions

__all__ = ["DECODING", "Settings"]

DECODING = ("serial", "overlapped", "off")


@dataclass(frozen=True)
class Settings(LoadOptions, SamplingOptions):
    """Options of ``vdmrt profile``; those of loading and sampling are inherited.

    Attributes:
        bundle: The bundle's folder.
        chunks: Least number of autoregressive steps; None fills the cache from empty and wraps it, at least 10.
        duration: Least number of seconds to measure; None ends with the chunks.
        warmup: Warm-up chunks, not counted.
        target_fps: Target rate in frames a second; None judges no deadline.
        percentiles: Percentiles in percent.
        decoding: Decoding of chunks: "serial" after each, "overlapped" with the next one, or "off".
        seed: Seed of the noise and of the given frames.
        layers: Whether the layers of the graphs are timed, in a separate pass.
        nvtx: Whether stages are also marked as NVTX ranges, for Nsight Systems.
        roofline: Whether the device's ceilings are measured: a second or two, and some hundred MiB.
    """

    bundle: Path
    chunks: int | None = None
    duration: float | None = None
    warmup: int = 2
    target_fps: float | None = None
    percentiles: tuple[float, ...] = (90.0, 95.0, 99.0)
    decoding: str = "serial"
    seed: int = 0
    layers: bool = False
    roofline: bool = True
    nvtx: bool = False

    def __post_init__(self) -> None:
        LoadOptions.__post_init__(self)
        SamplingOptions.__post_init__(self)
        if self.chunks is not None and self.chunks < 1:
            raise ValueError(f"--chunks must be at least 1, got {self.chunks}")
        if self.warmup < 0:
            raise ValueError(f"--warmup must be at least 0, got {self.warmup}")
        for name in ("duration", "target_fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{name.replace('_', '-')} must be positive and finite, got {value}")
        if any(not 0 < percent <= 100 for percent in self.percentiles):
            raise ValueError(f"--percentile must be above 0 and at most 100, got {self.percentiles}")
        if self.decoding not in DECODING:
            raise ValueError(f"--decoding must be one of {', '.join(DECODING)}, got {self.decoding!r}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"--seed must be 0 <= seed < 2**64, got {self.seed}")
