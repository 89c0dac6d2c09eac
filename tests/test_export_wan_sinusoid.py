"""The timestep's sinusoid in float32 compared with the one in float64."""

from __future__ import annotations

import pytest
import torch

from vdmrt.export.families.wan.sinusoid import Sinusoid
from vdmrt.export.families.wan.transformer import sinusoid


@pytest.mark.parametrize("width", [2, 6, 256])
def test_all_timesteps_are_exact_to_float32(width: int) -> None:
    timesteps = torch.cat([torch.arange(1001.0), torch.linspace(0, 1000, 4801), torch.tensor([2500 / 3, 937.5])])

    found = Sinusoid(width)(timesteps)

    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), sinusoid(timesteps, width), rtol=0, atol=1e-6)


def test_angles_computed_in_float32_alone_are_not_exact() -> None:
    timesteps = torch.arange(1001.0)
    frequencies = 10000.0 ** (-torch.arange(128) / 128)

    plain = (timesteps[:, None] * frequencies).cos()

    assert (plain.double() - sinusoid(timesteps, 256)[:, :128]).abs().max() > 1e-5


def test_shapes_are_kept() -> None:
    assert Sinusoid(8)(torch.zeros(2, 3)).shape == (2, 3, 8)
