"""How fast a quantized precision is beside a floating point one, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass

from ..precision import Precision

__all__ = ["Speed", "describe_speed"]


@dataclass(frozen=True)
class Speed:
    """How fast a quantized precision is beside a floating point one, a denoising step at a full cache, in turn.

    Attributes:
        precision: What was measured.
        against: The precision that it was compared with.
        backend: What ran both, in one line.
        ratio: Median of the other's time over its own; above 1 it is faster.
        low: Lower end of the 99 % interval of that median.
        high: Upper end.
        pairs: Neighboring runs.
        accepted: Whether it was asked for however slow.
        graphs_sha256: Of the graphs that were measured.
    """

    precision: Precision
    against: Precision
    backend: str
    ratio: float
    low: float
    high: float
    pairs: int
    accepted: bool
    graphs_sha256: str

    @property
    def faster(self) -> bool:
        """Whether it was shown to be faster: the whole interval is above 1."""
        return self.low > 1

    def describe(self) -> str:
        """Describe it in one line."""
        told = describe_speed(self.precision, self.against, self.ratio, self.low, self.high)
        return f"{told}, {self.pairs} pairs of denoising steps, {self.backend}"


def describe_speed(precision: Precision, against: Precision, ratio: float, low: float, high: float) -> str:
    """Return what a measured ratio shows: faster, slower, or neither, with its 99 % interval."""
    shown = "is faster" if low > 1 else "is slower" if high < 1 else "is not shown to be faster"
    return f"{precision} {shown} than {against}: {ratio:.2f} times as fast (99 % interval {low:.2f} to {high:.2f})"
