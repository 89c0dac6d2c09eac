"""IDDPM sampling against the recorded scheduler of the reference."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from vdmrt.runtime.sampling.iddpm import IddpmTables, iddpm_tables
from vdmrt.runtime.sampling.samplers import SamplerTable, make_sampler
from vdmrt.runtime.sampling.schedules import Schedule

Float32 = NDArray[np.float32]

GOLDEN = Path(os.environ.get("VDMRT_GOLDEN", Path(__file__).parent / "data" / "golden"))

EXACT = ("betas", "alphas_cumprod", "alphas_cumprod_prev", "posterior_variance")
"""Tables made by operations that IEEE 754 rounds in one way only: equal bit for bit."""

ROUNDED = {
    "sqrt_alphas_cumprod": 1,
    "sqrt_one_minus_alphas_cumprod": 1,
    "sqrt_recip_alphas_cumprod": 1,
    "sqrt_recipm1_alphas_cumprod": 1,
    "log_betas": 1,
    "posterior_log_variance_clipped": 1,
    "posterior_mean_coef1": 4,
    "posterior_mean_coef2": 4,
}
"""Tables behind a square root or a logarithm, and by how many units in the last place they may differ:
the reference took both from a vector library that is faithful within one, ours are correctly rounded."""


@dataclass(frozen=True)
class Case:
    """One recorded scheduler at one number of steps."""

    folder: Path
    steps: int

    def __str__(self) -> str:
        return f"{self.folder.name}-n{self.steps}"

    @property
    def config(self) -> dict[str, Any]:
        """What was recorded."""
        return read_json(self.folder / "config.json")

    @property
    def meta(self) -> dict[str, Any]:
        """Expectations that are not tensors."""
        return read_json(self.folder / "meta.json")

    @property
    def schedule(self) -> Schedule:
        """The schedule of the record."""
        return Schedule(self.config["noise_schedule"], self.config["diffusion_steps"])

    @property
    def tables(self) -> IddpmTables:
        """Our tables."""
        return iddpm_tables(self.schedule, self.steps)

    @property
    def sampler(self) -> SamplerTable:
        """Our sampler."""
        return make_sampler(
            "iddpm",
            steps=self.steps,
            prediction="epsilon",
            schedule=self.schedule,
            learned_variance=self.config["learn_sigma"],
        )

    def tensor(self, name: str) -> Float32:
        """Return a recorded tensor at this number of steps."""
        return np.asarray(read_tensors(self.folder)[f"n{self.steps}.{name}"])

    def recorded_steps(self, kind: str) -> list[int]:
        """Return the respaced indices k of which ``kind`` (p or q) was recorded."""
        names = (name.split(".") for name in read_tensors(self.folder))
        return sorted(
            {int(p[1][1:]) for p in names if p[0] == f"n{self.steps}" and p[1][0] == kind and p[1][1:].isdigit()}
        )


@cache
def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@cache
def read_tensors(folder: Path) -> dict[str, Any]:
    tensors: dict[str, Any] = load_file(folder / "io.safetensors")
    return tensors


def find_folders() -> list[Path]:
    configs = sorted(GOLDEN.glob("*/config.json"))
    folders = [path.parent for path in configs if read_json(path).get("type") == "iddpm"]
    if not folders:
        raise FileNotFoundError(f"No folder in {GOLDEN} has a config.json of type 'iddpm'; set VDMRT_GOLDEN")
    return folders


FOLDERS = find_folders()
DERIVED = [Case(folder, int(n)) for folder in FOLDERS for n in read_json(folder / "meta.json")["timestep_map"]]
SAMPLED = [Case(folder, n) for folder in FOLDERS for n in read_json(folder / "config.json")["num_sampling_steps"]]


@pytest.mark.parametrize("case", DERIVED, ids=str)
def test_timesteps_are_the_recorded_map(case: Case) -> None:
    recorded = case.meta["timestep_map"][str(case.steps)]

    assert case.tables.timesteps == recorded
    assert case.sampler.timesteps.tolist() == recorded[::-1]


@pytest.mark.parametrize("case", DERIVED, ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_tables_of_exact_operations_are_bit_for_bit_the_recorded(case: Case, name: str) -> None:
    table = getattr(case.tables, name)

    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, case.tensor(name))


@pytest.mark.parametrize("case", DERIVED, ids=str)
@pytest.mark.parametrize(("name", "ulps"), ROUNDED.items())
def test_tables_behind_roots_and_logarithms_keep_to_the_last_place(case: Case, name: str, ulps: int) -> None:
    table = getattr(case.tables, name)

    assert table.dtype == np.float32
    np.testing.assert_array_max_ulp(table, case.tensor(name), maxulp=ulps)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_schedule_is_the_recorded_one(folder: Path) -> None:
    schedule = Case(folder, 0).schedule
    tensors = read_tensors(folder)

    np.testing.assert_allclose(schedule.betas(), tensors["base.betas_fp64"], rtol=1e-14)
    np.testing.assert_allclose(schedule.alphas_cumprod(), tensors["base.alphas_cumprod_fp64"], rtol=1e-13)


@pytest.mark.parametrize("case", SAMPLED, ids=str)
def test_a_denoising_step_is_the_recorded_one(case: Case) -> None:
    x, z = case.tensor("x_t"), case.tensor("noise")
    m, v = np.split(case.tensor("model_out"), 2, axis=1)
    recorded_steps = case.recorded_steps("p")
    assert recorded_steps

    for k in recorded_steps:
        a_x, a_m, b_x, b_0, _, b_z, r0, r1 = case.sampler.coefficients[case.steps - 1 - k]
        x0 = a_x * x + a_m * m
        log_variance = r0 + r1 * (v + 1) / 2
        mean = b_x * x + b_0 * x0
        sample = mean + b_z * np.exp(log_variance / 2) * z

        assert_close(x0, case.tensor(f"p{k}.pred_xstart"))
        assert_close(mean, case.tensor(f"p{k}.mean"))
        assert_close(log_variance, case.tensor(f"p{k}.log_variance"))
        assert_close(sample, case.tensor(f"p{k}.sample"))


@pytest.mark.parametrize("case", SAMPLED, ids=str)
def test_perturbing_is_the_recorded_forward_process(case: Case) -> None:
    x, z = case.tensor("x_t"), case.tensor("noise")
    recorded_steps = case.recorded_steps("q")
    assert recorded_steps

    for k in recorded_steps:
        signal, noise = case.sampler.levels[k]
        assert_close(signal * x + noise * z, case.tensor(f"q{k}"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_prefix_noise_takes_the_recorded_step(folder: Path) -> None:
    for record in read_json(folder / "meta.json")["respaced_perturb"]:
        case = Case(folder, record["num_sampling_steps"])
        if record["original"] != "ok":
            with pytest.raises(ValueError, match="the smallest timestep that works is"):
                case.sampler.prefix_noise(record["prefix_perturb_t"])
            continue
        level, signal, noise = case.sampler.prefix_noise(record["prefix_perturb_t"])
        assert (level, case.tables.timesteps[level]) == (record["respaced"], record["timestep"])
        assert signal == case.tables.sqrt_alphas_cumprod[level]
        assert noise == case.tables.sqrt_one_minus_alphas_cumprod[level]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_recorded_guidance_keeps_the_variance_of_the_prompt(folder: Path) -> None:
    """The formula that the denoise graph follows, pinned where the record is."""
    scale = np.float32(read_json(folder / "config.json")["cfg_scale_of_cfg_record"])
    tensors = read_tensors(folder)
    null, prompt = np.split(tensors["cfg.raw"], 2)
    (null_m, _), (prompt_m, v) = np.split(null, 2, axis=1), np.split(prompt, 2, axis=1)

    guided = np.concatenate([null_m + scale * (prompt_m - null_m), v], axis=1)

    assert_close(guided, tensors[f"cfg.out_scale{scale:g}"])


def assert_close(found: Float32, recorded: Float32) -> None:
    """Compare to 1e-6 of the record's largest value: a few roundings in float32."""
    np.testing.assert_allclose(found, recorded, rtol=0, atol=1e-6 * float(np.abs(recorded).max()))
