"""The graphs of causal Wan in ONNX Runtime compared with recorded results of the original code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_wan import WanCase, assert_close, cases
from torch import Tensor
from wan_graphs import GraphReplay
from wan_replay import recorded_form

CASES = cases("rollout")
ROLLOUTS = [(case, rollout) for case in CASES for rollout in case.rollouts]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_rollout = pytest.mark.parametrize(("case", "rollout"), ROLLOUTS, ids=lambda one: getattr(one, "name", one))
# A runtime sums in another order, and the cache is filled by the graphs themselves.
FACTOR = 5


def check_pair(what: str, case: WanCase, found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    for name, one, other in zip("KV", found, wanted, strict=True):
        assert_close(f"{what} {name}", one, other, FACTOR * case.atol("kv"))


def check_call(replay: GraphReplay, chunk: int, step: int) -> None:
    """Compare flow, x0 and the next latent of a call with the recorded x_t."""
    case, rollout = replay.case, replay.rollout
    x_t, timestep = (case.step(rollout, name, chunk, step) for name in ("x_t", "timestep"))
    found = replay.stream.run(x_t, case.first_frame(chunk), replay.sampler(chunk, step, torch.zeros_like(x_t)))

    what, atol = f"{rollout} chunk {chunk} step {step}", FACTOR * case.atol("per_call")
    x0, last = found["next_history"], step + 1 == len(case.timesteps(chunk))
    assert_close(f"{what} x0", x0, case.step(rollout, "x0", chunk, step), atol)
    flow = case.grid.flow(x_t, x0, timestep)
    assert_close(f"{what} flow", flow, case.step(rollout, "flow", chunk, step), atol)
    following = case.step(rollout, "x0", chunk, step) if last else case.step(rollout, "x_t", chunk, step + 1)
    assert_close(f"{what} next latent", found["next_latent"], following, atol)
    assert found["next_step"].tolist() == [step + 1] * len(x_t)


@each_rollout
def test_denoising_calls_with_recorded_inputs(case: WanCase, rollout: str) -> None:
    replay = GraphReplay(case, rollout)
    for chunk in replay.forced():
        for step in range(len(case.timesteps(chunk))):
            check_call(replay, chunk, step)


@each_rollout
def test_what_finished_chunks_leave(case: WanCase, rollout: str) -> None:
    replay = GraphReplay(case, rollout)
    for chunk in replay.forced():
        start, count = case.first_frame(chunk), replay.frames_per_chunk
        written = replay.stream.commit(replay.recorded("latents")[:, start : start + count], start)

        found = replay.recorded_form(written, list(range(start, start + count)))
        check_pair(f"chunk {chunk}", case, found, (replay.recorded("new_k")[chunk], replay.recorded("new_v")[chunk]))


@each_rollout
def test_what_given_latents_leave(case: WanCase, rollout: str) -> None:
    replay = GraphReplay(case, rollout)
    written = replay.begin()

    assert len(written) == case.config["initial_latent_frames"]
    if written:
        check_pair("given", case, replay.cache(), (replay.recorded("initial_k"), replay.recorded("initial_v")))


@each_case
def test_keys_and_values_of_each_prompt(case: WanCase) -> None:
    replay = GraphReplay(case, next(iter(case.rollouts)))
    for name, suffix in case.prompts().items():
        wanted = case.tensor(f"cross.k{suffix}"), case.tensor(f"cross.v{suffix}")
        check_pair(f"prompt {name}", case, recorded_form(replay.texts[name]), wanted)


@each_case
def test_one_call_with_another_timestep_for_each_frame(case: WanCase) -> None:
    for rollout in case.rollouts if case.has("perframe") else ():
        replay = GraphReplay(case, rollout, per_frame=True)
        replay.commit(0)
        x_t, timestep = case.tensor("perframe.x_t"), case.tensor("perframe.timestep")
        sampler = replay.sampler(1, 0, torch.zeros_like(x_t))
        count = sampler["timesteps"].shape[1]
        coefficients = np.zeros((*timestep.shape[:1], count, timestep.shape[1], 8), np.float32)
        coefficients[..., 1] = 1  # the clean latent of this table is the flow
        sampler |= {
            "timesteps": np.tile(timestep.numpy()[:, None], (1, count, 1)),
            "coefficients": coefficients,
        }

        flow = replay.stream.run(x_t, case.first_frame(1), sampler)["next_history"]
        assert_close("flow", flow, case.tensor("perframe.flow"), FACTOR * case.atol("per_call"))


@each_rollout
def test_free_rollouts_with_the_recorded_noise(case: WanCase, rollout: str) -> None:
    latents = GraphReplay(case, rollout).free()

    assert_close("latents", latents, case.tensor(f"{rollout}.latents"), FACTOR * case.atol("rollout"))


@each_case
def test_only_turned_sinks_copy_cached_keys(case: WanCase) -> None:
    programs = GraphReplay(case, next(iter(case.rollouts))).stream.programs
    copied = {copy.tensor for stage in programs for copy in programs[stage].graph.cache_copies}

    turns = case.policy["positions"] == "window" and case.policy["sink_frames"] > 0
    layers = range(case.config["model"]["num_layers"]) if turns else ()
    assert copied == {f"past_k.{layer}" for layer in layers}
