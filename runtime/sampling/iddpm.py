"""Float32 tables of IDDPM sampling, computed as in the reference implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .schedules import spaced_timesteps

if TYPE_CHECKING:
    from .schedules import Schedule

__all__ = ["IddpmTables", "iddpm_tables"]

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class IddpmTables:
    """The tables of Ho et al. 2020 and Nichol and Dhariwal 2021 over respaced timesteps.

    All are float32 [steps] and rise with the timestep; entry k belongs to ``timesteps[k]``. The names
    are those in use since the DDPM code.

    Attributes:
        timesteps: Timestep input of the model, an integer per step.
        betas: Variance that a respaced step adds (Nichol and Dhariwal 2021, eq. 19).
        alphas_cumprod: Share of the clean latent's variance, abar.
        alphas_cumprod_prev: abar one step less noisy; 1 at k = 0.
        sqrt_alphas_cumprod: Factor of the clean latent (Ho et al. 2020, eq. 4).
        sqrt_one_minus_alphas_cumprod: Factor of the noise (eq. 4).
        sqrt_recip_alphas_cumprod: sqrt(1 / abar).
        sqrt_recipm1_alphas_cumprod: sqrt(1 / abar - 1).
        posterior_variance: beta-tilde (eq. 7), 0 at k = 0.
        posterior_log_variance_clipped: Its logarithm, with entry 0 replaced by entry 1.
        log_betas: The upper bound of the learned range (Nichol and Dhariwal 2021, eq. 15).
        posterior_mean_coef1: Factor of the clean latent in the posterior mean (eq. 7).
        posterior_mean_coef2: Factor of the noisy latent in the posterior mean (eq. 7).
    """

    timesteps: list[int]
    betas: Float32
    alphas_cumprod: Float32
    alphas_cumprod_prev: Float32
    sqrt_alphas_cumprod: Float32
    sqrt_one_minus_alphas_cumprod: Float32
    sqrt_recip_alphas_cumprod: Float32
    sqrt_recipm1_alphas_cumprod: Float32
    posterior_variance: Float32
    posterior_log_variance_clipped: Float32
    log_betas: Float32
    posterior_mean_coef1: Float32
    posterior_mean_coef2: Float32


def iddpm_tables(schedule: Schedule, steps: int) -> IddpmTables:
    """Derive the tables of ``steps`` >= 2 respaced steps in float32 from rounded betas.

    The reference rounds the respaced betas to float32 and computes everything from those; float64
    tables differ by 1e-4 at small timesteps, which changes the latents.

    Raises:
        ValueError: A beta rounds to 1, as with the cosine schedule over a handful of steps.
    """
    timesteps = spaced_timesteps(schedule.train_steps, steps)
    betas = _respaced_betas(schedule.alphas_cumprod()[timesteps])
    if betas.max() == 1:
        raise ValueError(
            f"IDDPM over the {schedule.name} schedule needs more than {steps} denoising steps: with these "
            "a beta rounds to 1 in float32; take more, or another sampler"
        )
    # A float32 cumulative product accumulates in float64 in the reference and rounds each entry.
    abar = np.cumprod(1 - betas, dtype=np.float64).astype(np.float32)
    abar_prev = np.append(np.float32(1), abar[:-1])
    variance = betas * (1 - abar_prev) / (1 - abar)
    return IddpmTables(
        timesteps=timesteps,
        betas=betas,
        alphas_cumprod=abar,
        alphas_cumprod_prev=abar_prev,
        sqrt_alphas_cumprod=np.sqrt(abar),
        sqrt_one_minus_alphas_cumprod=np.sqrt(1 - abar),
        sqrt_recip_alphas_cumprod=np.sqrt(1 / abar),
        sqrt_recipm1_alphas_cumprod=np.sqrt(1 / abar - 1),
        posterior_variance=variance,
        posterior_log_variance_clipped=_log(np.append(variance[1], variance[1:])),
        log_betas=_log(betas),
        posterior_mean_coef1=betas * np.sqrt(abar_prev) / (1 - abar),
        posterior_mean_coef2=(1 - abar_prev) * np.sqrt(1 - betas) / (1 - abar),
    )


def _respaced_betas(abar: NDArray[np.float64]) -> Float32:
    """Return 1 - abar_k / abar_{k-1} (Nichol and Dhariwal 2021, eq. 19), rounded to float32."""
    betas: NDArray[np.float64] = 1 - abar / np.append(1.0, abar[:-1])
    return betas.astype(np.float32)


def _log(values: Float32) -> Float32:
    """Round the float64 logarithm: numpy's float32 one depends on the machine's vector unit."""
    return np.log(values.astype(np.float64)).astype(np.float32)
