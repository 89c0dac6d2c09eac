"""The sampler of the reference rollout compared with recorded tables and conversions."""

from __future__ import annotations

import pytest
import torch
from golden_wan import WanCase, assert_close, cases
from reference_sampler import FlowGrid

GRIDS = [(case, shift) for case in cases("scheduler") for shift in case.config["lists"]]
each_grid = pytest.mark.parametrize(("case", "shift"), GRIDS, ids=lambda one: getattr(one, "name", one))


@each_grid
def test_noise_levels_of_the_grid(case: WanCase, shift: str) -> None:
    grid, prefix = FlowGrid(float(shift)), f"shift{shift}"

    assert_close("sigmas", torch.from_numpy(grid.sigmas), case.tensor(f"{prefix}.sigmas"), case.atol("tables"))
    timesteps = torch.from_numpy(grid.timesteps)
    assert_close("timesteps", timesteps, case.tensor(f"{prefix}.timesteps"), case.atol("timesteps"))


@each_grid
def test_step_lists(case: WanCase, shift: str) -> None:
    grid = FlowGrid(float(shift))
    for name, steps in case.config["lists"][shift].items():
        found = torch.tensor(grid.resolve(steps, warped=not name.endswith("_unwarped")))

        wanted = f"shift{shift}.list_{name}"
        assert_close(name, found, case.tensor(wanted), case.atol("timesteps"))
        assert_close(f"{name} sigmas", grid.sigma(found), case.tensor(f"{wanted}_sigmas"), case.atol("tables"))


@each_grid
def test_conversions_between_flow_and_clean_latents(case: WanCase, shift: str) -> None:
    grid, prefix = FlowGrid(float(shift)), f"shift{shift}"
    timestep, x_t, flow, x0 = (case.tensor(f"{prefix}.x0.{name}") for name in ("timestep", "x_t", "flow", "x0"))
    noise = case.tensor(f"{prefix}.add_noise.noise")

    assert_close("sigma", grid.sigma(timestep), case.tensor(f"{prefix}.x0.sigma"), case.atol("tables"))
    assert_close("x0", grid.clean(x_t, flow, timestep), x0, case.atol("conversions"))
    flow_back = case.tensor(f"{prefix}.x0.flow_back")
    assert_close("flow_back", grid.flow(x_t, x0, timestep), flow_back, case.atol("flow_back"))
    renoised = grid.renoise(x_t, noise, timestep)
    assert_close("x_t", renoised, case.tensor(f"{prefix}.add_noise.x_t"), case.atol("conversions"))
