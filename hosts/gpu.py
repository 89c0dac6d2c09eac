"""A GPU's properties as the CUDA driver reports them, and its peak throughput."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..bundle import FP16, FP32

if TYPE_CHECKING:
    from ..bundle import Precision

__all__ = ["Gpu"]

# Dense FP16 operations per multiprocessor and clock, by compute capability, from NVIDIA's tuning guides and
# architecture papers: two for each multiply-add of the tensor cores.
_FP16_PER_CLOCK = {
    "7.0": 1024, "7.5": 1024, "8.0": 2048, "8.6": 1024, "8.7": 2048, "8.9": 1024, "9.0": 4096, "10.0": 8192,
    "10.3": 8192, "12.0": 1024,
}  # fmt: skip
# Float32 outside the tensor cores: two for each lane.
_FP32_PER_CLOCK = {
    "7.0": 128, "7.5": 128, "8.0": 128, "8.6": 256, "8.7": 256, "8.9": 256, "9.0": 256, "10.0": 256, "10.3": 256,
    "12.0": 256,
}  # fmt: skip


@dataclass(frozen=True)
class Gpu:
    """A GPU and its driver, which a plan is bound to.

    Attributes:
        name: The GPU's name.
        compute_capability: As "9.0".
        memory_nbytes: Its total memory, in bytes.
        multiprocessors: Their number; this, the clocks and the width are 0 where the driver does not report them.
        clock_hz: Highest clock of its multiprocessors.
        memory_clock_hz: Highest clock of its memory.
        bus_bits: Width of the memory bus.
        cuda: The newest CUDA that the driver supports, as "13.0".
        driver: The driver's version, or "" where it is unknown.
        index: Its index, in the driver's order.
    """

    name: str
    compute_capability: str
    memory_nbytes: int = 0
    multiprocessors: int = 0
    clock_hz: int = 0
    memory_clock_hz: int = 0
    bus_bits: int = 0
    cuda: str = ""
    driver: str = ""
    index: int = 0

    @property
    def bandwidth(self) -> int:
        """Peak memory bandwidth in bytes a second, at the highest clock: two words a clock."""
        return 2 * self.memory_clock_hz * self.bus_bits // 8

    def peak_flops(self, precision: Precision) -> int | None:
        """Return the peak operations a second of dense matrix products; None for an unknown GPU or type."""
        tables = {FP16.linears: _FP16_PER_CLOCK, FP32.linears: _FP32_PER_CLOCK}
        per_clock = tables.get(precision.linears, {}).get(self.compute_capability)
        return per_clock * self.multiprocessors * self.clock_hz or None if per_clock else None
