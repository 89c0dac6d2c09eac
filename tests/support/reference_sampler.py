"""The sampler of few-step causal Wan models: clean latents from the flow, then fresh noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from golden import Array
from torch import Tensor

__all__ = ["FlowGrid"]

_STEPS = 1000


@dataclass(frozen=True)
class FlowGrid:
    """The 1000 noise levels of training.

    Attributes:
        shift: Moves the levels toward noise; 1 leaves them evenly spaced.
    """

    shift: float

    @cached_property
    def sigmas(self) -> Array:
        """Noise levels, float32, falling from 1."""
        even = 1.0 - np.arange(_STEPS) / _STEPS
        return (self.shift * even / (1.0 + (self.shift - 1.0) * even)).astype(np.float32)

    @cached_property
    def timesteps(self) -> Array:
        """Timesteps, float32, falling from 1000."""
        return self.sigmas * np.float32(_STEPS)

    def resolve(self, steps: Sequence[float], *, warped: bool) -> list[float]:
        """Return the timesteps of a step list; in a warped one, entry n selects index 1000 - n of the grid."""
        return [float(self.timesteps[_STEPS - int(step)]) for step in steps] if warped else [*map(float, steps)]

    def sigma(self, timestep: Tensor) -> Tensor:
        """Return the noise level of the grid's nearest timestep, float32, in the shape of ``timestep``."""
        distance = (torch.from_numpy(self.timesteps) - timestep[..., None]).abs()
        return torch.from_numpy(self.sigmas)[distance.argmin(dim=-1)]

    def clean(self, x_t: Tensor, flow: Tensor, timestep: Tensor) -> Tensor:
        """Return x0 of x_t and ``flow`` [*timestep.shape, ...], computed in float64."""
        return (x_t.double() - self._spread(timestep, x_t).double() * flow.double()).float()

    def flow(self, x_t: Tensor, x0: Tensor, timestep: Tensor) -> Tensor:
        """Return the flow that leads from x_t to ``x0``, computed in float64."""
        return ((x_t.double() - x0.double()) / self._spread(timestep, x_t).double()).float()

    def renoise(self, x0: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Return x_t of ``x0`` [*timestep.shape, ...] and ``noise``."""
        sigma = self._spread(timestep, x0)
        return (1 - sigma) * x0 + sigma * noise

    def _spread(self, timestep: Tensor, like: Tensor) -> Tensor:
        return self.sigma(timestep).reshape(*timestep.shape, *[1] * (like.ndim - timestep.ndim))
