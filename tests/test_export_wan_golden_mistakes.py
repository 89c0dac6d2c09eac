"""Mistakes made on purpose are larger than the tolerance of the recorded cases."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from golden_wan import DEFAULT, WanCase
from torch import Tensor, nn
from wan_replay import Replay, build, load_case

from vdmrt.export.families.wan.attention import RmsNorm
from vdmrt.export.families.wan.block import FeedForward
from vdmrt.export.families.wan.config import WanConfig
from vdmrt.export.families.wan.rotary import space_table
from vdmrt.export.families.wan.transformer import CausalWan

CASE = WanCase("wan_index", DEFAULT)
ROLLOUT = "rollout"


class PerHeadRmsNorm(RmsNorm):
    """The norm over each head's channels instead of all."""

    def __init__(self, norm: RmsNorm, heads: int) -> None:
        super().__init__(len(norm.weight), norm.eps)
        self.heads = heads
        self.load_state_dict(norm.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        split = x.reshape(*x.shape[:-1], self.heads, -1)
        normed = split * torch.rsqrt(split.square().mean(dim=-1, keepdim=True) + self.eps)
        return normed.reshape(x.shape) * self.weight


def exchange_rows_and_columns(model: CausalWan) -> None:
    rows, columns = model.config.grid
    turned = torch.from_numpy(space_table((columns, rows), model.config.head_size))
    model.space.copy_(turned.reshape(2, columns, rows, -1).transpose(1, 2).reshape(model.space.shape))


def use_exact_gelu(model: CausalWan) -> None:
    for module in model.modules():
        if isinstance(module, FeedForward):
            module[1] = nn.GELU()


def widen_eps(model: CausalWan) -> None:
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, RmsNorm)):
            module.eps = 1e-5


def normalize_each_head(model: CausalWan) -> None:
    for name, module in [*model.named_modules()]:
        if isinstance(module, RmsNorm):
            model.set_submodule(name, PerHeadRmsNorm(module, model.config.heads))


def exchange_norms(model: CausalWan) -> None:
    for block in model.blocks:
        block.norm2, block.norm3 = block.norm3, block.norm2


MISTAKES = [exchange_rows_and_columns, use_exact_gelu, widen_eps, normalize_each_head, exchange_norms]


def largest_difference(model: CausalWan, policy: WanConfig | None = None) -> float:
    """Return the largest difference of a flow in the first denoising call of each chunk."""
    replay = Replay(CASE, ROLLOUT, model, policy)
    wanted = replay.recorded("flow")
    calls = (replay.predict(chunk, 0)[2] - wanted[chunk, 0] for chunk in replay.forced())
    return max(float(difference.abs().max()) for difference in calls)


def test_without_a_mistake_calls_are_within_the_tolerance() -> None:
    assert largest_difference(load_case(CASE)) < CASE.atol("per_call")


@pytest.mark.parametrize("make_mistake", MISTAKES, ids=lambda one: one.__name__)
def test_a_mistake_in_the_network_is_detected(make_mistake: Callable[[CausalWan], None]) -> None:
    model = copy.deepcopy(load_case(CASE))
    make_mistake(model)
    model.requires_grad_(False)

    assert largest_difference(model) > 5 * CASE.atol("per_call")


@pytest.mark.parametrize(
    "mistake",
    [{"window_frames": 10}, {"window_frames": 8}, {"sink_frames": 2}, {"positions": "absolute"}],
    ids=lambda mistake: "{}={}".format(*next(iter(mistake.items()))),
)
def test_a_mistake_in_the_cache_is_detected(mistake: dict[str, object]) -> None:
    model = load_case(CASE)
    policy = replace(model.config, **mistake)  # type: ignore[arg-type]

    assert largest_difference(model, policy) > 1000 * CASE.atol("per_call")


def test_a_cache_filled_at_another_timestep_is_detected() -> None:
    model = load_case(CASE)
    noisy = build(replace(model.config, context_timestep=100.0), model.state_dict())

    assert largest_difference(noisy) > 1000 * CASE.atol("per_call")
