"""The timestep's sinusoid in float32, exact to float32's last digits: TensorRT has no cosine in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Sinusoid"]

# Bits of a frequency that are multiplied by a whole timestep: 10 bits of the timestep and these fit float32's 24.
_COARSE_BITS = 13


class Sinusoid(nn.Module):
    """Cosines, then sines, of timesteps 0 to 1000.

    An angle of 1000 radians has only 4 decimals in float32. Counted in turns instead, the product of the timestep's
    whole part and a frequency's first bits is exact, and its whole turns are dropped before anything is rounded.
    """

    coarse: Tensor
    fine: Tensor
    turns: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        turns = 10000.0 ** (-np.arange(half, dtype=np.float64) / half) / (2 * math.pi)
        mantissa, exponent = np.frexp(turns)
        coarse = np.ldexp(np.round(np.ldexp(mantissa, _COARSE_BITS)), exponent - _COARSE_BITS)
        for name, table in (("coarse", coarse), ("fine", turns - coarse), ("turns", turns)):
            self.register_buffer(name, torch.from_numpy(table.astype(np.float32)), persistent=False)

    def forward(self, timestep: Tensor) -> Tensor:
        """Embed timesteps [...], float32, as [..., width], float32."""
        whole = _drop_fraction(timestep)[..., None]
        turns = whole * self.coarse
        rest = whole * self.fine + (timestep[..., None] - whole) * self.turns
        angles = (turns - _drop_fraction(turns) + rest) * (2 * math.pi)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


def _drop_fraction(x: Tensor) -> Tensor:
    # Two casts instead of Floor, which is not among the supported operators; no value is negative.
    return x.to(torch.int32).to(x.dtype)
