"""The training objective: v-prediction with a learned range of variances."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vdmrt.runtime.sampling.iddpm import iddpm_tables
from vdmrt.runtime.sampling.schedules import Schedule

__all__ = ["TRAIN_STEPS", "Diffusion", "Losses"]

TRAIN_STEPS = 1000


class Losses(NamedTuple):
    """The parts of the objective, each a mean over all elements.

    Attributes:
        simple: Squared error of v.
        variational: The bound on the likelihood, in bits; trains only the variance.
    """

    simple: Tensor
    variational: Tensor


class Diffusion:
    """The forward process over the training timesteps and the losses against it."""

    def __init__(self, device: str = "cpu") -> None:
        tables = iddpm_tables(Schedule(train_steps=TRAIN_STEPS), TRAIN_STEPS)
        columns = (
            tables.sqrt_alphas_cumprod,
            tables.sqrt_one_minus_alphas_cumprod,
            tables.posterior_mean_coef1,
            tables.posterior_log_variance_clipped,
            tables.log_betas,
        )
        self._table = torch.from_numpy(np.stack(columns)).to(device)

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return ``clean`` at ``timesteps`` (Ho et al. 2020, eq. 4); both broadcast from the left."""
        signal, sigma = self._rows(timesteps, clean)[:2]
        return signal * clean + sigma * noise

    def measure(self, clean: Tensor, noise: Tensor, timesteps: Tensor, predicted: Tensor, variance: Tensor) -> Losses:
        """Return the hybrid loss's parts (Nichol and Dhariwal 2021, eq. 16; v as in Salimans and Ho 2022).

        Args:
            clean: Clean latents, [B, n, T, c, h, w].
            noise: The added noise, shaped as ``clean``.
            timesteps: Timestep of each chunk, integer [B, n].
            predicted: The predicted v, shaped as ``clean``.
            variance: The variance value, -1..1 from the posterior variance to beta, shaped as ``clean``.
        """
        signal, sigma, by_clean, least, most = self._rows(timesteps, clean)
        noisy = signal * clean + sigma * noise
        simple = (predicted - (signal * noise - sigma * clean)).square().mean()
        # The mean is detached: the bound trains only the variance.
        off = by_clean * (signal * noisy - sigma * predicted.detach() - clean)
        log_variance = least + (most - least) * (variance + 1.0) * 0.5
        bound = 0.5 * (log_variance - least - 1.0 + (least - log_variance).exp() + off.square() * (-log_variance).exp())
        return Losses(simple, bound.mean() / math.log(2.0))

    def _rows(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, ...]:
        rows = self._table[:, timesteps]
        return rows.reshape(*rows.shape, *[1] * (like.ndim - timesteps.ndim)).unbind()
