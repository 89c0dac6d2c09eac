"""Noise schedules: variances at each training timestep."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCHEDULES", "Schedule", "spaced_timesteps"]

SCHEDULES = ("linear", "cosine", "scaled_linear")

_LARGEST_BETA = 0.999  # of the cosine schedule: keeps its last step from dividing by zero


@dataclass(frozen=True)
class Schedule:
    """The noise schedule over the training timesteps that the checkpoint was trained with.

    ``linear`` (Ho et al. 2020, section 4) runs from 1e-4 to 2e-2 over 1000 timesteps. Over another
    number of timesteps both ends are multiplied by 1000 / train_steps, as IDDPM does, so that the
    last timestep keeps its noise level. ``scaled_linear`` (Stable Diffusion) is linear in sqrt(beta),
    from 0.00085 to 0.012 whatever the number of timesteps. ``cosine`` is Nichol and Dhariwal 2021,
    eq. 17.

    Attributes:
        name: One of ``SCHEDULES``.
        train_steps: Number of training timesteps, at least 2.
        beta_start: First beta, used unscaled; None uses the schedule's default. Not for ``cosine``.
        beta_end: Last beta, likewise.

    Raises:
        ValueError: The name is unknown, there are fewer than 2 timesteps, a beta is given to
            ``cosine``, or the betas do not satisfy 0 < beta_start <= beta_end < 1.
    """

    name: str = "linear"
    train_steps: int = 1000
    beta_start: float | None = None
    beta_end: float | None = None

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise ValueError(f"Noise schedule must be one of {', '.join(SCHEDULES)}, got {self.name!r}")
        if self.train_steps < 2:
            raise ValueError(f"Noise schedule needs train_steps >= 2, got {self.train_steps}")
        if self.name == "cosine":
            self._check_no_betas()
        else:
            self._check_betas()

    def betas(self) -> NDArray[np.float64]:
        """Return the variance that each timestep adds, [train_steps]."""
        if self.name == "cosine":
            return self._cosine_betas()
        start, end = self._ends()
        if self.name == "scaled_linear":
            return np.linspace(math.sqrt(start), math.sqrt(end), self.train_steps) ** 2
        return np.linspace(start, end, self.train_steps)

    def alphas_cumprod(self) -> NDArray[np.float64]:
        """Return the share of the clean latent's variance at each timestep, [train_steps]."""
        return np.cumprod(1 - self.betas(), dtype=np.float64)

    def _cosine_betas(self) -> NDArray[np.float64]:
        times = np.arange(self.train_steps + 1) / self.train_steps
        signal = np.cos((times + 0.008) / 1.008 * np.pi / 2) ** 2
        betas: NDArray[np.float64] = np.minimum(1 - signal[1:] / signal[:-1], _LARGEST_BETA)
        return betas

    def _ends(self) -> tuple[float, float]:
        scale = 1000 / self.train_steps
        start, end = (0.00085, 0.012) if self.name == "scaled_linear" else (1e-4 * scale, 2e-2 * scale)
        return (
            start if self.beta_start is None else self.beta_start,
            end if self.beta_end is None else self.beta_end,
        )

    def _check_no_betas(self) -> None:
        if self.beta_start is not None or self.beta_end is not None:
            raise ValueError(
                "The cosine schedule takes no betas, "
                f"got beta_start={self.beta_start} beta_end={self.beta_end}; leave them out"
            )

    def _check_betas(self) -> None:
        start, end = self._ends()
        if not 0 < start <= end < 1:
            raise ValueError(
                f"The {self.name} schedule over {self.train_steps} timesteps needs "
                f"0 < beta_start <= beta_end < 1, got beta_start={start:g} beta_end={end:g}; "
                "give betas in that range"
            )


def spaced_timesteps(train_steps: int, steps: int) -> list[int]:
    """Return ``steps`` timesteps from 0 to train_steps - 1, evenly spaced and rising.

    As IDDPM's ``space_timesteps``: the stride is accumulated and rounded half to even. A single step
    is the last timestep; IDDPM would use timestep 0, which cannot start from noise.
    """
    if steps == 1:
        return [train_steps - 1]
    stride = (train_steps - 1) / (steps - 1)
    timesteps, position = [], 0.0
    for _ in range(steps):
        timesteps.append(round(position))
        # Accumulated as in the reference: k * stride can round to another timestep.
        position += stride
    return timesteps
