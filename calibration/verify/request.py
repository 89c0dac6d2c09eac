"""What to measure; imported by the command line, so without numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...bundle import FP32, Precision
from ...runtime.sampling.sampling_options import SamplingOptions

__all__ = ["VerifyRequest"]


@dataclass(frozen=True)
class VerifyRequest(SamplingOptions):
    """What to measure; the names are the options of ``vdmrt verify``. Those of sampling are inherited.

    Attributes:
        bundle: The bundle's folder.
        precision: What is measured; None takes the last that the bundle has.
        against: "fp32", or another bundle's folder, whose float32 graphs are the reference.
        data: What rollouts go on from, as for ``vdmrt calibrate``; None draws seeded normals.
        chunks: Autoregressive steps.
        seeds: Rollouts.
        gates: Bounds by figure; None takes the default ones.
        threads: Threads of the CPU provider.
    """

    bundle: Path
    precision: Precision | None = None
    against: str = str(FP32)
    data: Path | None = None
    chunks: int = 20
    seeds: int = 4
    gates: Mapping[str, float] | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        SamplingOptions.__post_init__(self)
        for name in ("chunks", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
