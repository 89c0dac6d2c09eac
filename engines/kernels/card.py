"""The graphics card that rooflines are computed for, as its data sheet describes it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CARD", "Card"]


@dataclass(frozen=True)
class Card:
    """Rates of a graphics card; nothing here is measured.

    Attributes:
        name: Its name.
        bandwidth_gb_s: Memory bandwidth.
        half_tflops: Rate of dense products in FP16, taken for 8 bits too.
        single_tflops: Rate of products in float32.
        launch_us: What a small kernel costs inside a CUDA graph.
    """

    name: str
    bandwidth_gb_s: float
    half_tflops: float
    single_tflops: float
    launch_us: float

    def roofline_us(self, *, nbytes: int, flops: int, is_half: bool) -> float:
        """Return the least microseconds for one kernel: its launch, its bytes or its FLOPs."""
        rate = self.half_tflops if is_half else self.single_tflops
        return max(self.launch_us, nbytes / self.bandwidth_gb_s / 1e3, flops / rate / 1e6)

    def describe(self) -> str:
        """Return what rooflines are, with the rates, in one line."""
        return (
            f"roofline: arithmetic on the compiled plan, not a measurement: the sum over kernels of the longest of "
            f"launch ({self.launch_us:g} µs), bytes and FLOPs on a {self.name} as its data sheet has it "
            f"({self.bandwidth_gb_s:g} GB/s, {self.half_tflops:g} TFLOPS in FP16 and 8 bits, {self.single_tflops:g} in "
            f"FP32)"
        )


CARD = Card("GeForce RTX 4090", bandwidth_gb_s=1008, half_tflops=165, single_tflops=82, launch_us=2.0)
