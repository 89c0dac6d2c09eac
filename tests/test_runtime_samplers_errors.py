"""A sampler that cannot serve a request says what was wanted, what was found and what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from vdmrt.runtime.sampling.samplers import make_sampler
from vdmrt.runtime.sampling.schedules import Schedule


def sampler(name: str = "ddim", **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "steps": 10,
        "prediction": "epsilon",
        "schedule": Schedule(),
        "learned_variance": True,
    }
    return make_sampler(name, **(arguments | changes))


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (
            "euler",
            {},
            "Sampler must be one of iddpm, ddpm, ddim, dpm-solver++, flow-euler, got 'euler'",
        ),
        ("ddim", {"prediction": "x0"}, "Prediction must be one of epsilon, v, flow, got 'x0'"),
        (
            "ddim",
            {"prediction": "flow"},
            "Sampler 'ddim' needs a model that predicts epsilon or v, this one predicts flow; choose flow-euler",
        ),
        (
            "flow-euler",
            {},
            "Sampler 'flow-euler' needs a model that predicts flow, this one predicts epsilon; "
            "choose iddpm, ddpm, ddim, dpm-solver++",
        ),
        (
            "iddpm",
            {"learned_variance": False},
            "Sampler 'iddpm' needs a model with learned variance, this one has none; choose ddpm, ddim or dpm-solver++",
        ),
        (
            "iddpm",
            {"steps": 1},
            "Sampler 'iddpm' needs at least 2 and at most 1000 denoising steps, got 1",
        ),
        ("ddim", {"steps": 0}, "Sampler 'ddim' needs at least 1 and at most 1000 denoising steps, got 0"),
        (
            "ddpm",
            {"steps": 1001},
            "Sampler 'ddpm' needs at least 1 and at most 1000 denoising steps, got 1001",
        ),
        ("ddim", {"eta": 1.5}, "Sampler 'ddim' needs 0 <= eta <= 1, got eta=1.5"),
        ("ddim", {"eta": -0.1}, "Sampler 'ddim' needs 0 <= eta <= 1, got eta=-0.1"),
        ("ddim", {"eta": float("nan")}, "Sampler 'ddim' needs 0 <= eta <= 1, got eta=nan"),
        ("ddpm", {"eta": 0.5}, "Only sampler 'ddim' has an eta, got eta=0.5 with 'ddpm'; leave it out"),
        (
            "flow-euler",
            {"prediction": "flow", "shift": 0.0},
            "Sampler 'flow-euler' needs a positive, finite shift, got shift=0.0",
        ),
        (
            "ddim",
            {"shift": 3.0},
            "Only sampler 'flow-euler' has a shift, got shift=3.0 with 'ddim'; leave it out",
        ),
        (
            "iddpm",
            {"schedule": Schedule("cosine"), "steps": 4},
            "IDDPM over the cosine schedule needs more than 4 denoising steps",
        ),
    ],
)
def test_a_sampler_that_cannot_be_made_says_why(name: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sampler(name, **changes)


def test_more_steps_than_the_bundle_has_names_the_option() -> None:
    sentence = "The bundle was exported for at most 100 steps, got 150; export again with --max-steps 150"
    with pytest.raises(ValueError, match=sentence):
        sampler(steps=150).padded(100)


@pytest.mark.parametrize("timestep", [-1, 0, 99, 1000])
def test_prefix_noise_out_of_reach_names_the_smallest_timestep(timestep: int) -> None:
    sentence = (
        "Prefix noise with 10 steps needs 100 <= timestep < 1000, "
        f"got {timestep}; the smallest timestep that works is 100"
    )
    with pytest.raises(ValueError, match=sentence):
        sampler(steps=10).prefix_noise(timestep)


def test_prefix_noise_of_a_single_step_cannot_be() -> None:
    with pytest.raises(ValueError, match="Prefix noise needs at least 2 denoising steps, got 1"):
        sampler(steps=1).prefix_noise(999)


@pytest.mark.parametrize("timestep", [0, 1000])
def test_prefix_noise_of_a_flow_stays_on_its_line(timestep: int) -> None:
    with pytest.raises(ValueError, match="needs 1 <= timestep < 1000"):
        sampler("flow-euler", prediction="flow").prefix_noise(timestep)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "sigmoid"}, "Noise schedule must be one of linear, cosine, scaled_linear, got 'sigmoid'"),
        ({"train_steps": 1}, "Noise schedule needs train_steps >= 2, got 1"),
        (
            {"name": "cosine", "beta_end": 0.5},
            "The cosine schedule takes no betas, got beta_start=None beta_end=0.5; leave them out",
        ),
        (
            {"train_steps": 10},
            "The linear schedule over 10 timesteps needs 0 < beta_start <= beta_end < 1, "
            "got beta_start=0.01 beta_end=2; give betas in that range",
        ),
        (
            {"name": "scaled_linear", "beta_start": 0.02},
            "The scaled_linear schedule over 1000 timesteps needs 0 < beta_start <= beta_end < 1, "
            "got beta_start=0.02 beta_end=0.012",
        ),
    ],
)
def test_a_schedule_that_cannot_be_says_why(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Schedule(**arguments)
