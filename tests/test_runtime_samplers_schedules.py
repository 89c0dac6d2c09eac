"""The noise schedules are those of their papers, and timesteps are spaced as IDDPM spaces them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdmrt.runtime.sampling.schedules import SCHEDULES, Schedule, spaced_timesteps


@pytest.mark.parametrize(
    ("schedule", "first", "middle", "last"),
    [
        (Schedule("linear", 1001), 1e-4 / 1.001, 1.005e-2 / 1.001, 2e-2 / 1.001),
        (Schedule("linear", 1001, 1e-3, 3e-3), 1e-3, 2e-3, 3e-3),
        (Schedule("scaled_linear", 1001), 0.00085, ((0.00085**0.5 + 0.012**0.5) / 2) ** 2, 0.012),
        (Schedule("scaled_linear", 1001, 0.01, 0.09), 0.01, 0.04, 0.09),
    ],
)
def test_linear_schedules_are_straight(schedule: Schedule, first: float, middle: float, last: float) -> None:
    np.testing.assert_allclose(schedule.betas()[[0, 500, 1000]], [first, middle, last], rtol=1e-12)


@pytest.mark.parametrize("train_steps", [100, 1000, 4000])
def test_cosine_is_equation_17_of_nichol_and_dhariwal(train_steps: int) -> None:
    def f(t: int) -> float:
        return math.cos((t / train_steps + 0.008) / 1.008 * math.pi / 2) ** 2

    schedule = Schedule("cosine", train_steps)

    # The last beta is clipped, and with it the last product.
    expected = [f(t) / f(0) for t in range(1, train_steps)]
    np.testing.assert_allclose(schedule.alphas_cumprod()[:-1], expected, rtol=1e-9)
    assert schedule.betas()[-1] == 0.999


@pytest.mark.parametrize("train_steps", [200, 4000])
def test_the_linear_schedule_keeps_its_last_noise_level_over_other_lengths(train_steps: int) -> None:
    reference = Schedule().alphas_cumprod()[-1]

    last = Schedule(train_steps=train_steps).alphas_cumprod()[-1]

    assert np.log(last) == pytest.approx(np.log(reference), rel=0.05)


@pytest.mark.parametrize("name", SCHEDULES)
def test_signal_only_falls(name: str) -> None:
    schedule = Schedule(name)

    abar = schedule.alphas_cumprod()
    assert abar.dtype == np.float64 and abar.shape == (1000,)
    assert (np.diff(abar) < 0).all() and 0 < abar[-1] and abar[0] < 1
    np.testing.assert_allclose(abar[1:] / abar[:-1], 1 - schedule.betas()[1:], rtol=1e-12)


@given(data=st.data(), train_steps=st.integers(2, 4000))
def test_timesteps_rise_from_the_first_to_the_last(data: st.DataObject, train_steps: int) -> None:
    steps = data.draw(st.integers(2, train_steps))

    timesteps = spaced_timesteps(train_steps, steps)

    assert len(timesteps) == steps
    assert timesteps[0] == 0 and timesteps[-1] == train_steps - 1
    assert (np.diff(timesteps) >= 1).all()
    np.testing.assert_allclose(timesteps, np.linspace(0, train_steps - 1, steps), atol=0.5 + 1e-6)


def test_a_single_step_is_the_noisiest() -> None:
    assert spaced_timesteps(1000, 1) == [999]
