"""Sampler tables: the timestep and coefficients that the graph reads at each denoising step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...bundle import format_count

__all__ = ["COLUMNS", "PrefixNoise", "SamplerTable", "lay_out"]

COLUMNS = ("a_x", "a_m", "b_x", "b_0", "b_h", "b_z", "r0", "r1")
"""Names of the eight coefficients of a step, in order.

The graph computes, from the latent x, the guided model output m, the previous estimate of the clean
latent (history), the learned-variance channels v and fresh noise z::

    x0           = a_x * x + a_m * m
    next         = b_x * x + b_0 * x0 + b_h * history + b_z * exp((r0 + r1 * (v + 1) / 2) / 2) * z
    next_history = x0

Without learned variance the r1 term is absent. ``b_h`` is 0 in the first row, where history is whatever
finite values the buffer holds.
"""


class PrefixNoise(NamedTuple):
    """Noise level of a prefix: a clean latent becomes ``signal * latent + noise * z``, z fresh noise."""

    level: int  # position among the noise levels, rising
    signal: float
    noise: float


@dataclass(frozen=True, eq=False)
class SamplerTable:
    """Timesteps and coefficients of a request's denoising steps, in the order run: highest timestep first.

    Attributes:
        name: One of ``SAMPLERS``.
        timesteps: Timestep input of the model at each step, float32 [steps].
        coefficients: Float32 [steps, 8], columns as in ``COLUMNS``.
        train_steps: Number of training timesteps, the unit of ``prefix_noise``.
        levels: Factors (signal, noise) of the noise levels that a prefix may get, rising, [levels, 2];
            float32 for ``iddpm``, else float64. The respaced steps of a diffusion sampler, every
            training timestep of a flow.
    """

    name: str
    timesteps: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    train_steps: int
    levels: NDArray[np.float32] | NDArray[np.float64]

    @property
    def steps(self) -> int:
        """Number of denoising steps."""
        return len(self.timesteps)

    @property
    def stochastic(self) -> bool:
        """Whether any step adds fresh noise."""
        return bool(self.coefficients[:, COLUMNS.index("b_z")].any())

    def padded(self, max_steps: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return timesteps [max_steps + 1] and coefficients [max_steps + 1, 8].

        From the last step on the rows are the identity (b_x = 1, the rest and the timestep 0), so that
        a finished request stays unchanged while others in the same launch continue.

        Raises:
            ValueError: The table has more than ``max_steps`` steps.
        """
        if self.steps > max_steps:
            raise ValueError(
                f"The bundle was exported for at most {format_count(max_steps, 'step')}, got {self.steps}; "
                f"export again with --max-steps {self.steps}"
            )
        timesteps = np.zeros(max_steps + 1, np.float32)
        timesteps[: self.steps] = self.timesteps
        coefficients = lay_out(b_x=np.ones(max_steps + 1))
        coefficients[: self.steps] = self.coefficients
        return timesteps, coefficients

    def prefix_noise(self, timestep: int) -> PrefixNoise:
        """Return the noise level of a prefix that is perturbed to about ``timestep``.

        The reference truncates to a respaced step, k = int(timestep * steps / train_steps), and
        perturbs by its forward process (Ho et al. 2020, eq. 4). A flow is defined at every level: its
        factors are 1 - timestep / train_steps and timestep / train_steps.

        Raises:
            ValueError: The level would be 0, which is no noise, or beyond the last timestep.
        """
        smallest = -(-self.train_steps // len(self.levels))
        if smallest >= self.train_steps:
            raise ValueError(f"Prefix noise needs at least 2 denoising steps, got {self.steps}")
        if not smallest <= timestep < self.train_steps:
            raise ValueError(
                f"Prefix noise with {self.steps} steps needs {smallest} <= timestep < {self.train_steps}, "
                f"got {timestep}; the smallest timestep that works is {smallest}"
            )
        level = timestep * len(self.levels) // self.train_steps
        signal, noise = self.levels[level]
        return PrefixNoise(level, float(signal), float(noise))


def lay_out(**columns: NDArray[Any]) -> NDArray[np.float32]:
    """Lay out the named columns in the order of ``COLUMNS``; those not named are 0."""
    rows = np.zeros((len(columns["b_x"]), len(COLUMNS)), np.float32)
    for name, column in columns.items():
        rows[:, COLUMNS.index(name)] = column
    return rows
