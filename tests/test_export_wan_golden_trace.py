"""The inside of one recorded call of causal Wan."""

from __future__ import annotations

import pytest
from golden_wan import WanCase, assert_close, cases
from reference_rollout import frame_angles
from torch import Tensor
from wan_replay import Replay, load_case

from vdmrt.export.families.wan.attention import SelfAttention
from vdmrt.export.families.wan.rotary import join_tables, rotate
from vdmrt.export.families.wan.transformer import CausalWan

CASES = cases("rollout")
PREFIX = "trace."
# Sub-modules whose outputs were recorded under another name.
_MODULES = {"self_attn.out": "self_attn.o", "cross_attn.out": "cross_attn.o", "self_attn.q_normed": "self_attn.norm_q"}
_MODULES |= {"self_attn.k_normed": "self_attn.norm_k", "out": "", "self_attn.q_roped": "self_attn.norm_q"}
_MODULES |= {"self_attn.k_roped_own": "self_attn.norm_k"}


def module_of(name: str) -> str:
    """Return the path of the sub-module whose output a trace recorded."""
    if not name.startswith("blocks."):
        return name
    block, _, inner = name.removeprefix("blocks.").partition(".")
    return f"blocks.{block}.{_MODULES.get(inner, inner)}".removesuffix(".")


def capture(model: CausalWan, names: list[str], replay: Replay) -> dict[str, Tensor]:
    """Run the recorded call and return the outputs of sub-modules, by the names of traces."""
    found, hooks = dict[str, Tensor](), []
    for name in names:

        def keep(_module: object, _inputs: object, output: Tensor | tuple[Tensor, object], name: str = name) -> None:
            found[name] = output[0] if isinstance(output, tuple) else output

        hooks.append(model.get_submodule(module_of(name)).register_forward_hook(keep))
    trace = replay.case.config["trace"]
    model.prompt(replay.context(trace["chunk"]))
    assert trace["chunk"] in replay.forced()
    replay.predict(trace["chunk"], trace["step"])
    for hook in hooks:
        hook.remove()
    return found


def rotated(flat: Tensor, model: CausalWan, start: int) -> Tensor:
    """Return queries or keys [B, F, S, C] in heads, rotated by their positions: [B, F * S, H, d]."""
    attention = model.get_submodule("blocks.0.self_attn")
    assert isinstance(attention, SelfAttention)
    batch, frames = flat.shape[:2]
    angles = frame_angles(model.config, start - model.config.sink_shift(start), frames, batch)
    return rotate(flat.reshape(batch, -1, attention.heads, model.config.head_size), join_tables(angles, model.space))


def as_recorded(name: str, output: Tensor, wanted: Tensor, model: CausalWan, start: int) -> Tensor:
    """Return an output in the form of its trace."""
    if "_roped" in name:
        return rotated(output, model, start)
    if name == "patch_embedding":  # recorded before its tokens are flattened, [B, C, F, rows, columns]
        return output.permute(0, 3, 1, 2).reshape(wanted.shape)
    return output.reshape(wanted.shape)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sub_modules_compute_what_was_traced(case: WanCase) -> None:
    names = [name.removeprefix(PREFIX) for name in case.tensors if name.startswith(PREFIX)]
    assert bool(names) == case.has("trace")
    if names:
        model, chunk = load_case(case), case.config["trace"]["chunk"]
        found = capture(model, names, Replay(case, next(iter(case.rollouts)), model))
        for name in names:
            wanted = case.tensor(PREFIX + name)
            output = as_recorded(name, found[name], wanted, model, case.first_frame(chunk))
            assert_close(name, output, wanted, case.atol("per_call"))
