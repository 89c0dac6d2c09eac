"""Request of a verification; imported by the command line, so without numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...bundle import FP32
from ...runtime.backends.load_options import LoadOptions
from ...runtime.sampling.sampling_options import SamplingOptions

__all__ = ["VerifyRequest"]

_OWN = str(FP32)


@dataclass(frozen=True)
class VerifyRequest(LoadOptions, SamplingOptions):
    """Options of ``vdmrt verify``.

    The inherited options of loading and sampling apply to the measured precision, by default the last one of the
    bundle. The reference is float32 in ONNX Runtime on the CPU.

    Attributes:
        bundle: The bundle's folder.
        against: "fp32", or another bundle's folder, whose float32 graphs are the reference.
        data: Clips that rollouts continue from, as for ``vdmrt calibrate``; None draws seeded normals.
        chunks: Autoregressive steps.
        seeds: Rollouts.
        gates: Bounds by figure; None selects the default ones.
    """

    bundle: Path
    against: str = _OWN
    data: Path | None = None
    chunks: int = 20
    seeds: int = 4
    gates: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        LoadOptions.__post_init__(self)
        SamplingOptions.__post_init__(self)
        for name in ("chunks", "seeds"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")

    @property
    def against_own(self) -> bool:
        """Whether the reference is the bundle's own float32 graphs."""
        return self.against == _OWN
