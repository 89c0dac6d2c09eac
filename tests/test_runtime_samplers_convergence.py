"""With a perfect model of Gaussian data every sampler ends at the data's distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vdmrt.runtime.sampling.samplers import SamplerTable, make_sampler
from vdmrt.runtime.sampling.schedules import Schedule

MEAN, STD = 0.7, 0.5  # of the data


def path(table: SamplerTable) -> list[tuple[float, float]]:
    """Return the factors (signal, noise) at every step, highest timestep first."""
    if table.name == "flow-euler":
        return [(1 - t / table.train_steps, t / table.train_steps) for t in table.timesteps.astype(float)]
    abar = Schedule(train_steps=table.train_steps).alphas_cumprod()[table.timesteps.astype(int)]
    return [(float(np.sqrt(a)), float(np.sqrt(1 - a))) for a in abar]


def perfect_output(x: float, signal: float, noise: float, prediction: str) -> float:
    """Return what the best possible model predicts: E[target | x] under Gaussian data."""
    gain = signal * STD**2 / (signal**2 * STD**2 + noise**2)
    clean = MEAN + gain * (x - signal * MEAN)
    epsilon = (x - signal * clean) / noise
    return {"epsilon": epsilon, "v": signal * epsilon - noise * clean, "flow": epsilon - clean}[prediction]


def run(table: SamplerTable, prediction: str, x: float, stop: int | None = None) -> float:
    """Run the first ``stop`` steps from ``x`` without the fresh noise."""
    history = 0.0
    rows = table.coefficients.astype(np.float64)[:stop]
    for row, (signal, noise) in zip(rows, path(table)[:stop], strict=True):
        a_x, a_m, b_x, b_0, b_h = row[:5]
        x0 = a_x * x + a_m * perfect_output(x, signal, noise, prediction)
        x, history = b_x * x + b_0 * x0 + b_h * history, x0
    return float(x)


def final_moments(table: SamplerTable, prediction: str, v: float = 0.0) -> tuple[float, float]:
    """Return the mean and the standard deviation at the end, exactly: every step is affine in x."""
    signal, noise = path(table)[0]
    mean, variance = signal * MEAN, signal**2 * STD**2 + noise**2
    for row, (signal, noise) in zip(table.coefficients.astype(np.float64), path(table), strict=True):
        a_x, a_m, b_x, b_0, b_h, b_z, r0, r1 = row
        assert b_h == 0, "a step with history is not affine in x alone"
        at_0, at_1, at_mean = (
            b_x * x + b_0 * (a_x * x + a_m * perfect_output(x, signal, noise, prediction)) for x in (0.0, 1.0, mean)
        )
        mean, variance = at_mean, (at_1 - at_0) ** 2 * variance + b_z**2 * np.exp(r0 + r1 * (v + 1) / 2)
    return mean, float(np.sqrt(variance))


def sampler(name: str, steps: int, prediction: str, train_steps: int = 1000, **options: Any) -> SamplerTable:
    return make_sampler(
        name,
        steps=steps,
        prediction=prediction,
        schedule=Schedule(train_steps=train_steps),
        learned_variance=True,
        **options,
    )


@pytest.mark.parametrize(
    ("name", "prediction", "options", "v"),
    [
        ("iddpm", "epsilon", {}, -1.0),
        ("iddpm", "epsilon", {}, 1.0),
        ("iddpm", "v", {}, 0.0),
        ("ddpm", "epsilon", {}, 0.0),
        ("ddpm", "v", {}, 0.0),
        ("ddim", "epsilon", {}, 0.0),
        ("ddim", "v", {"eta": 0.5}, 0.0),
        ("flow-euler", "flow", {}, 0.0),
        ("flow-euler", "flow", {"shift": 3.0}, 0.0),
    ],
)
def test_the_end_approaches_the_data_as_steps_grow(
    name: str, prediction: str, options: dict[str, Any], v: float
) -> None:
    errors = []
    for steps in (10, 50, 250, 1000):
        mean, std = final_moments(sampler(name, steps, prediction, **options), prediction, v)
        errors.append(abs(mean - MEAN) + abs(std - STD))

    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2


def exact(table: SamplerTable, x: float, step: int) -> float:
    """Follow the probability flow of Gaussian data from ``x`` to ``step``: its quantile stays."""
    (signal, noise), (signal_end, noise_end) = path(table)[0], path(table)[step]
    quantile = (x - signal * MEAN) / np.hypot(signal * STD, noise)
    return float(signal_end * MEAN + quantile * np.hypot(signal_end * STD, noise_end))


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm-solver++", 2)])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_twice_the_steps_divide_the_error_by_two_to_the_order(name: str, order: int, prediction: str) -> None:
    errors = []
    for steps in (129, 257, 513):  # 1024 = 8 * 128: every grid lies inside the next
        table = sampler(name, steps, prediction, train_steps=1025)
        errors.append(abs(run(table, prediction, 1.3, steps - 1) - exact(table, 1.3, steps - 1)))

    ratios = [coarse / fine for coarse, fine in zip(errors[:-1], errors[1:], strict=True)]
    assert ratios == pytest.approx([2**order] * 2, rel=0.25)


def test_dpm_solver_approaches_the_data_as_steps_grow() -> None:
    errors = []
    for steps in (10, 50, 250, 1000):
        table = sampler("dpm-solver++", steps, "epsilon")
        signal, noise = path(table)[0]
        low, high = (signal * MEAN + q * np.hypot(signal * STD, noise) for q in (-1, 1))
        ends = run(table, "epsilon", low), run(table, "epsilon", high)
        errors.append(np.abs(np.subtract(ends, (MEAN - STD, MEAN + STD))).max())

    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2
