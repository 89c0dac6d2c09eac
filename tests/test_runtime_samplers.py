"""Every sampler's table does what its paper says, checked against the textbook in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vdmrt.runtime.sampling.samplers import COLUMNS, SamplerTable, make_sampler
from vdmrt.runtime.sampling.schedules import Schedule

Array = NDArray[np.float64]

LINEAR = Schedule()
STEPS = [2, 3, 10, 50]


def apply(row: NDArray[np.float32], x: Array, m: Array, history: Array, z: Array, v: float = 0.0) -> Array:
    """Return [next, next_history] as the graph computes them."""
    a_x, a_m, b_x, b_0, b_h, b_z, r0, r1 = row.astype(np.float64)
    x0 = a_x * x + a_m * m
    noise = b_z * np.exp(0.5 * (r0 + r1 * (v + 1) / 2)) * z
    return np.stack([b_x * x + b_0 * x0 + b_h * history + noise, x0])


def sampler(name: str, steps: int, prediction: str = "epsilon", **options: Any) -> SamplerTable:
    return make_sampler(name, steps=steps, prediction=prediction, schedule=LINEAR, learned_variance=True, **options)


def levels(table: SamplerTable) -> Iterator[tuple[float, float]]:
    """Yield abar and the next abar of every step, from the schedule's definition and no table."""
    abar = [1.0]
    for k in range(1000):
        abar.append(abar[-1] * (1 - (1e-4 + (2e-2 - 1e-4) * k / 999)))
    run = [abar[int(t) + 1] for t in table.timesteps] + [1.0]
    yield from zip(run[:-1], run[1:], strict=True)


def assert_steps(table: SamplerTable, textbook: Callable[..., Array], *, rtol: float = 1e-6) -> None:
    """Compare every row, on random latents and model outputs, with ``textbook(abar, abar_next, x, m, z)``."""
    rng = np.random.default_rng(0)
    for row, (abar, abar_next) in zip(table.coefficients, levels(table), strict=True):
        x, m, z = rng.standard_normal((3, 64))
        x0 = (x - np.sqrt(1 - abar) * m) / np.sqrt(abar)

        found = apply(row, x, m, np.zeros(64), z)

        np.testing.assert_allclose(found[1], x0, rtol=0, atol=rtol * np.abs(x0).max())
        expected = textbook(abar, abar_next, x, m, z)
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=rtol * np.abs(x0).max())


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, *STEPS])
def test_ddim_is_equation_12_of_song_et_al(steps: int, eta: float) -> None:
    def textbook(abar: float, abar_next: float, x: Array, eps: Array, z: Array) -> Array:
        sigma = eta * np.sqrt((1 - abar_next) / (1 - abar)) * np.sqrt(1 - abar / abar_next)
        predicted = (x - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
        direction = np.sqrt(max(1 - abar_next - sigma**2, 0)) * eps
        return np.asarray(np.sqrt(abar_next) * predicted + direction + sigma * z)

    assert_steps(sampler("ddim", steps, eta=eta), textbook)


@pytest.mark.parametrize("steps", [1, *STEPS])
def test_ddpm_is_algorithm_2_of_ho_et_al_with_the_posterior_variance(steps: int) -> None:
    def textbook(abar: float, abar_next: float, x: Array, eps: Array, z: Array) -> Array:
        alpha = abar / abar_next
        beta = 1 - alpha
        variance = (1 - abar_next) / (1 - abar) * beta
        return np.asarray((x - beta / np.sqrt(1 - abar) * eps) / np.sqrt(alpha) + np.sqrt(variance) * z)

    assert_steps(sampler("ddpm", steps), textbook)


@pytest.mark.parametrize("v", [-1.0, -0.4, 1.0])
@pytest.mark.parametrize("steps", STEPS)
def test_iddpm_learns_the_variance_between_its_bounds(steps: int, v: float) -> None:
    table = sampler("iddpm", steps)
    betas = [float(np.float32(1 - abar / abar_next)) for abar, abar_next in levels(table)]
    abars = np.append(np.cumprod(1 - np.array(betas[::-1]))[::-1], 1.0)
    rng = np.random.default_rng(0)
    for k in range(steps - 1):
        x, eps, z = rng.standard_normal((3, 64))
        small = (1 - abars[k + 1]) / (1 - abars[k]) * betas[k]
        f = (v + 1) / 2
        log_variance = f * np.log(betas[k]) + (1 - f) * np.log(small)
        mean = (x - betas[k] / np.sqrt(1 - abars[k]) * eps) / np.sqrt(1 - betas[k])
        expected = mean + np.exp(log_variance / 2) * z

        found = apply(table.coefficients[k], x, eps, np.zeros(64), z, v)[0]

        # Looser than the others: from the betas on, these tables are float32 as the reference's.
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_iddpm_adds_no_noise_at_its_last_step() -> None:
    noise = sampler("iddpm", 10).coefficients[:, COLUMNS.index("b_z")]

    assert noise.tolist() == [1.0] * 9 + [0.0]


@pytest.mark.parametrize("steps", [1, *STEPS])
def test_dpm_solver_is_algorithm_2_of_lu_et_al(steps: int) -> None:
    table = sampler("dpm-solver++", steps)
    rng = np.random.default_rng(0)
    x, history = rng.standard_normal((2, 64))
    estimates: list[Array] = []
    lambdas: list[float] = []
    for row, (abar, abar_next) in zip(table.coefficients, levels(table), strict=True):
        eps = rng.standard_normal(64)
        alpha, sigma = np.sqrt([abar, 1 - abar])
        alpha_next, sigma_next = np.sqrt([abar_next, 1 - abar_next])
        estimates.append((x - sigma * eps) / alpha)
        lambdas.append(np.log(alpha / sigma))
        if sigma_next == 0:
            expected = estimates[-1]
        else:
            h = np.log(alpha_next / sigma_next) - lambdas[-1]
            d = estimates[-1]
            if len(estimates) > 1:
                r = (lambdas[-1] - lambdas[-2]) / h
                d = (1 + 1 / (2 * r)) * estimates[-1] - 1 / (2 * r) * estimates[-2]
            expected = sigma_next / sigma * x - alpha_next * (np.exp(-h) - 1) * d

        found, history = apply(row, x, eps, history, np.zeros(64))

        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(estimates[-1]).max())
        x = expected


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("steps", [1, *STEPS])
def test_flow_euler_follows_the_velocity(steps: int, shift: float) -> None:
    table = sampler("flow-euler", steps, "flow", shift=shift)
    times = [1 - i / steps for i in range(steps + 1)]
    sigmas = [shift * t / (1 + (shift - 1) * t) for t in times]
    rng = np.random.default_rng(0)

    np.testing.assert_allclose(table.timesteps, 1000 * np.array(sigmas[:-1]), rtol=1e-6)
    for row, sigma, sigma_next in zip(table.coefficients, sigmas[:-1], sigmas[1:], strict=True):
        x, velocity = rng.standard_normal((2, 64))
        found, x0 = apply(row, x, velocity, np.zeros(64), np.zeros(64))
        np.testing.assert_allclose(found, x + (sigma_next - sigma) * velocity, rtol=0, atol=1e-6)
        np.testing.assert_allclose(x0, x - sigma * velocity, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["iddpm", "ddpm", "ddim", "dpm-solver++"])
@given(steps=st.integers(2, 60), seed=st.integers(0, 2**32 - 1))
def test_v_and_epsilon_models_take_the_same_path(name: str, steps: int, seed: int) -> None:
    tolerance = 2e-4 if name == "iddpm" else 1e-6  # its tables are float32 all the way
    by_epsilon, by_v = sampler(name, steps, "epsilon"), sampler(name, steps, "v")
    rng = np.random.default_rng(seed)
    for row_epsilon, row_v, (abar, _) in zip(by_epsilon.coefficients, by_v.coefficients, levels(by_v), strict=True):
        x, eps, history, z = rng.standard_normal((4, 8))
        x0 = (x - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
        v = np.sqrt(abar) * eps - np.sqrt(1 - abar) * x0

        found = apply(row_v, x, v, history, z)

        expected = apply(row_epsilon, x, eps, history, z)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", ["iddpm", "ddpm", "ddim", "dpm-solver++", "flow-euler"])
@given(steps=st.integers(2, 100), spare=st.integers(0, 100))
def test_rows_after_the_last_step_rest(name: str, steps: int, spare: int) -> None:
    table = sampler(name, steps, "flow" if name == "flow-euler" else "epsilon")

    timesteps, coefficients = table.padded(steps + spare)

    assert timesteps.shape == (steps + spare + 1,) and timesteps.dtype == np.float32
    assert coefficients.shape == (steps + spare + 1, 8) and coefficients.dtype == np.float32
    np.testing.assert_array_equal(coefficients[:steps], table.coefficients)
    np.testing.assert_array_equal(timesteps[:steps], table.timesteps)
    x, m, history, z = np.random.default_rng(0).standard_normal((4, 8))
    for row, timestep in zip(coefficients[steps:], timesteps[steps:], strict=True):
        np.testing.assert_array_equal(apply(row, x, m, history, z)[0], x)
        assert timestep == 0


@pytest.mark.parametrize(
    ("name", "options", "stochastic"),
    [
        ("iddpm", {}, True),
        ("ddpm", {}, True),
        ("ddim", {"eta": 0.5}, True),
        ("ddim", {}, False),
        ("dpm-solver++", {}, False),
    ],
)
def test_a_table_knows_whether_it_needs_noise(name: str, options: dict[str, Any], stochastic: bool) -> None:
    assert sampler(name, 10, **options).stochastic is stochastic


@pytest.mark.parametrize("name", ["iddpm", "ddpm", "ddim", "dpm-solver++", "flow-euler"])
@pytest.mark.parametrize("schedule", [LINEAR, Schedule("cosine"), Schedule("scaled_linear")])
@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_every_table_is_finite_and_runs_downhill(name: str, schedule: Schedule, steps: int) -> None:
    prediction = "flow" if name == "flow-euler" else "epsilon"

    table = make_sampler(name, steps=steps, prediction=prediction, schedule=schedule, learned_variance=True)

    assert np.isfinite(table.coefficients).all()
    assert (np.diff(table.timesteps) < 0).all()
    assert table.steps == steps


def test_ddpm_is_finite_where_almost_no_signal_is_left() -> None:
    schedule = Schedule("cosine", 100_000)

    table = make_sampler("ddpm", steps=2, prediction="v", schedule=schedule, learned_variance=False)

    assert np.isfinite(table.coefficients).all()


@given(steps=st.integers(2, 1000))
def test_the_smallest_prefix_timestep_is_the_first_that_reaches_a_step(steps: int) -> None:
    table = sampler("ddim", steps)
    smallest = next(t for t in range(1000) if int(t * steps / 1000) > 0)

    assert table.prefix_noise(smallest).level == smallest * steps // 1000
    with pytest.raises(ValueError, match=f"the smallest timestep that works is {smallest}$"):
        table.prefix_noise(smallest - 1)


@pytest.mark.parametrize("name", ["iddpm", "ddpm", "ddim", "dpm-solver++"])
def test_prefix_noise_is_the_forward_process_at_a_respaced_step(name: str) -> None:
    table = sampler(name, 20)
    abar = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))[53]  # 50 falls on step 1, timestep 53

    level, signal, noise = table.prefix_noise(50)

    assert level == 1
    assert signal == pytest.approx(np.sqrt(abar), rel=1e-6)
    assert noise == pytest.approx(np.sqrt(1 - abar), rel=1e-6)


@pytest.mark.parametrize("steps", [1, 4])
def test_prefix_noise_of_a_flow_is_its_straight_line(steps: int) -> None:
    level = sampler("flow-euler", steps, "flow", shift=3.0).prefix_noise(50)

    assert (level.signal, level.noise) == (0.95, 0.05)
