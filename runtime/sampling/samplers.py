"""Samplers: computation of the eight coefficients of each denoising step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .iddpm import iddpm_tables
from .sampler_table import COLUMNS, PrefixNoise, SamplerTable, lay_out
from .sampling_options import PREDICTIONS, SAMPLERS
from .schedules import spaced_timesteps

if TYPE_CHECKING:
    from .schedules import Schedule

__all__ = ["COLUMNS", "PREDICTIONS", "SAMPLERS", "PrefixNoise", "SamplerTable", "make_sampler"]

Float64 = NDArray[np.float64]


def make_sampler(
    name: str,
    *,
    steps: int,
    prediction: str,
    schedule: Schedule,
    learned_variance: bool,
    eta: float = 0.0,
    shift: float = 1.0,
) -> SamplerTable:
    """Compute the table of a sampler.

    Args:
        name: One of ``SAMPLERS``.
        steps: Number of denoising steps, 1 (``iddpm``: 2) to schedule.train_steps.
        prediction: Prediction type of the model, one of ``PREDICTIONS``.
        schedule: Noise schedule of the training. ``flow-euler`` uses only its train_steps.
        learned_variance: Whether the model has learned-variance channels. Only ``iddpm`` uses them.
        eta: Parameter of ``ddim``: 0 is deterministic, 1 is as random as ``ddpm``.
        shift: Parameter of ``flow-euler``: above 1 spends more steps at high noise.

    Raises:
        ValueError: The sampler is unknown, does not fit the model, or an argument is out of its range.
    """
    _check_fit(name, prediction, learned_variance)
    _check_range(name, steps, schedule.train_steps, eta, shift)
    if name == "iddpm":
        return _make_iddpm(schedule, steps, prediction)
    if name == "flow-euler":
        return _make_flow_euler(schedule.train_steps, steps, shift)
    return _make_diffusion(name, schedule, steps, prediction, eta)


def _make_iddpm(schedule: Schedule, steps: int, prediction: str) -> SamplerTable:
    """Nichol and Dhariwal 2021, eq. 15: the variance is learned between beta-tilde and beta."""
    tables = iddpm_tables(schedule, steps)
    levels = np.stack([tables.sqrt_alphas_cumprod, tables.sqrt_one_minus_alphas_cumprod], axis=1)
    if prediction == "epsilon":
        a_x, a_m = tables.sqrt_recip_alphas_cumprod, -tables.sqrt_recipm1_alphas_cumprod
    else:
        a_x, a_m = levels[:, 0], -levels[:, 1]
    rising = lay_out(
        a_x=a_x,
        a_m=a_m,
        b_x=tables.posterior_mean_coef2,
        b_0=tables.posterior_mean_coef1,
        b_z=np.arange(steps) > 0,  # the last step run, k = 0, adds no noise
        r0=tables.posterior_log_variance_clipped,
        r1=tables.log_betas - tables.posterior_log_variance_clipped,
    )
    timesteps = np.array(tables.timesteps, np.float32)
    return SamplerTable("iddpm", timesteps[::-1], rising[::-1], schedule.train_steps, levels)


def _make_diffusion(name: str, schedule: Schedule, steps: int, prediction: str, eta: float) -> SamplerTable:
    rising = spaced_timesteps(schedule.train_steps, steps)
    abar = schedule.alphas_cumprod()[rising]
    levels = np.stack([np.sqrt(abar), np.sqrt(1 - abar)], axis=1)
    signal, noise = levels[::-1].T
    if prediction == "epsilon":
        a_x, a_m = 1 / signal, -noise / signal
    else:
        a_x, a_m = signal, -noise
    if name == "dpm-solver++":
        update = _dpm_solver(signal, noise)
    else:
        # Song et al. 2021, section 4.1: eta = 1 is DDPM with the posterior variance.
        update = _ddim(signal, noise, 1.0 if name == "ddpm" else eta)
    timesteps = np.array(rising[::-1], np.float32)
    return SamplerTable(name, timesteps, lay_out(a_x=a_x, a_m=a_m, **update), schedule.train_steps, levels)


def _ddim(signal: Float64, noise: Float64, eta: float) -> dict[str, Float64]:
    """Song et al. 2021, eq. 12 and 16, with the noise estimate written as (x - signal x0) / noise."""
    next_signal, next_noise = np.append(signal[1:], 1.0), np.append(noise[1:], 0.0)
    sigma = eta * next_noise / noise * np.sqrt(1 - (signal / next_signal) ** 2)
    b_x = np.sqrt(next_noise**2 - sigma**2) / noise
    return {"b_x": b_x, "b_0": next_signal - b_x * signal, "b_z": sigma}


def _dpm_solver(signal: Float64, noise: Float64) -> dict[str, Float64]:
    """Lu et al. 2022 (arXiv 2211.01095), algorithm 2: DPM-Solver++(2M), which predicts data.

    The first step has no history. The last one goes to noise 0, an infinite step in lambda (half
    the log-SNR): its first-order limit is the clean estimate, a second-order term would not be finite.
    """
    lambda_steps = np.diff(np.log(signal / noise))
    gain = np.append(-signal[1:] * np.expm1(-lambda_steps), 1.0)
    extrapolation = np.zeros_like(signal)  # 1 / (2 r) in the paper
    extrapolation[1:-1] = lambda_steps[1:] / (2 * lambda_steps[:-1])
    return {
        "b_x": np.append(noise[1:], 0.0) / noise,
        "b_0": gain * (1 + extrapolation),
        "b_h": -gain * extrapolation,
    }


def _make_flow_euler(train_steps: int, steps: int, shift: float) -> SamplerTable:
    """Liu et al. 2022 (arXiv 2209.03003): Euler from noise to data along x = (1 - s) x0 + s noise.

    The shift is Esser et al. 2024 (arXiv 2403.03206), eq. 23, by the ratio sqrt(m / n).
    """
    uniform = np.linspace(1.0, 0.0, steps + 1)
    sigmas = shift * uniform / (1 + (shift - 1) * uniform)
    kept = sigmas[1:] / sigmas[:-1]
    rows = lay_out(a_x=np.ones(steps), a_m=-sigmas[:-1], b_x=kept, b_0=1 - kept)
    times = np.arange(train_steps) / train_steps
    levels = np.stack([1 - times, times], axis=1)
    timesteps = (train_steps * sigmas[:-1]).astype(np.float32)
    return SamplerTable("flow-euler", timesteps, rows, train_steps, levels)


def _check_fit(name: str, prediction: str, learned_variance: bool) -> None:
    if name not in SAMPLERS:
        raise ValueError(f"Sampler must be one of {', '.join(SAMPLERS)}, got {name!r}")
    if prediction not in PREDICTIONS:
        raise ValueError(f"Prediction must be one of {', '.join(PREDICTIONS)}, got {prediction!r}")
    if prediction not in SAMPLERS[name]:
        fitting = ", ".join(other for other, predictions in SAMPLERS.items() if prediction in predictions)
        raise ValueError(
            f"Sampler {name!r} needs a model that predicts {' or '.join(SAMPLERS[name])}, "
            f"this one predicts {prediction}; choose {fitting}"
        )
    if name == "iddpm" and not learned_variance:
        raise ValueError(
            "Sampler 'iddpm' needs a model with learned variance, this one has none; choose ddpm, ddim or dpm-solver++"
        )


def _check_range(name: str, steps: int, train_steps: int, eta: float, shift: float) -> None:
    # The respacing of IDDPM divides by steps - 1.
    fewest = 2 if name == "iddpm" else 1
    if not fewest <= steps <= train_steps:
        raise ValueError(
            f"Sampler {name!r} needs at least {fewest} and at most {train_steps} denoising steps, got {steps}"
        )
    if not 0 <= eta <= 1:
        raise ValueError(f"Sampler {name!r} needs 0 <= eta <= 1, got eta={eta}")
    if eta != 0 and name != "ddim":
        raise ValueError(f"Only sampler 'ddim' has an eta, got eta={eta} with {name!r}; leave it out")
    if not 0 < shift < np.inf:
        raise ValueError(f"Sampler {name!r} needs a positive, finite shift, got shift={shift}")
    if shift != 1 and name != "flow-euler":
        raise ValueError(f"Only sampler 'flow-euler' has a shift, got shift={shift} with {name!r}; leave it out")
