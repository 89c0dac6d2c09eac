"""The torch module of causal Wan compared with recorded results of the original code."""

from __future__ import annotations

import pytest
import torch
from golden_wan import WanCase, assert_close, cases
from torch import Tensor
from wan_replay import Replay, load_case, recorded_form

CASES = cases("rollout")
ROLLOUTS = [(case, rollout) for case in CASES for rollout in case.rollouts]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_rollout = pytest.mark.parametrize(("case", "rollout"), ROLLOUTS, ids=lambda one: getattr(one, "name", one))


def check_pair(what: str, case: WanCase, found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    for name, one, other in zip("KV", found, wanted, strict=True):
        assert_close(f"{what} {name}", one, other, case.atol("kv"))


@each_case
def test_keys_and_values_of_each_prompt(case: WanCase) -> None:
    for suffix in case.prompts().values():
        found = recorded_form(load_case(case).prompt(case.tensor(f"text.context{suffix}")))

        wanted = case.tensor(f"cross.k{suffix}"), case.tensor(f"cross.v{suffix}")
        check_pair(f"prompt{suffix}", case, found, wanted)


@each_rollout
def test_calls_with_recorded_inputs(case: WanCase, rollout: str) -> None:
    replay = Replay(case, rollout, load_case(case))
    for chunk in replay.forced():
        assert int(replay.recorded("start_frame")[chunk]) == case.first_frame(chunk)
        for step in range(len(case.timesteps(chunk))):
            x_t, timestep, flow = replay.predict(chunk, step)

            what, atol = f"{rollout} chunk {chunk} step {step}", case.atol("per_call")
            assert_close(f"{what} flow", flow, case.step(rollout, "flow", chunk, step), atol)
            x0 = case.grid.clean(x_t, flow, timestep)
            assert_close(f"{what} x0", x0, case.step(rollout, "x0", chunk, step), atol)


@each_rollout
def test_what_finished_chunks_leave(case: WanCase, rollout: str) -> None:
    replay = Replay(case, rollout, load_case(case))
    for chunk in replay.forced():
        start, count = case.first_frame(chunk), replay.frames_per_chunk
        latents = replay.recorded("latents")[:, start : start + count]
        flow = replay.stream.denoise(latents, replay.recorded("clean_timestep")[chunk], start)
        written = replay.stream.commit(latents, start)

        assert_close(f"chunk {chunk} flow", flow, replay.recorded("clean_flow")[chunk], case.atol("per_call"))
        found = replay.recorded_form(written, list(range(start, start + count)))
        wanted = replay.recorded("new_k")[chunk], replay.recorded("new_v")[chunk]
        check_pair(f"chunk {chunk}", case, found, wanted)
        if case.has("cache") and chunk in case.config["cache_after_chunks"]:
            whole = replay.recorded(f"cache{chunk}.k"), replay.recorded(f"cache{chunk}.v")
            check_pair(f"cache after chunk {chunk}", case, replay.cache(), whole)


@each_rollout
def test_what_given_latents_leave(case: WanCase, rollout: str) -> None:
    replay = Replay(case, rollout, load_case(case))
    written = replay.begin()

    assert len(written) == case.config["initial_latent_frames"]
    if written:
        wanted = replay.recorded("initial_k"), replay.recorded("initial_v")
        check_pair("given latents", case, replay.cache(), wanted)


@each_rollout
def test_the_cache_after_a_switch_of_the_prompt(case: WanCase, rollout: str) -> None:
    replay, switch = Replay(case, rollout, load_case(case)), case.switch_chunk(rollout)
    before = next(chunk for chunk in replay.forced() if switch is None or chunk == switch - 1)
    if switch is None:
        assert not case.has("recache") and before == 0
        return
    replay.commit(before)
    flow, (key, value) = replay.switch(switch, replay.recorded("latents")), replay.cache()

    assert flow is not None
    assert_close("flow", flow, replay.recorded(f"recache{switch}.flow"), case.atol("per_call"))
    wanted = replay.recorded(f"recache{switch}.k"), replay.recorded(f"recache{switch}.v")
    check_pair("cache", case, (key, value), wanted)


@each_case
def test_one_call_with_another_timestep_for_each_frame(case: WanCase) -> None:
    timesteps = case.tensor("perframe.timestep") if case.has("perframe") else torch.empty(0)
    for rollout in case.rollouts if case.has("perframe") else ():
        replay = Replay(case, rollout, load_case(case))
        replay.commit(0)
        flow = replay.stream.denoise(case.tensor("perframe.x_t"), timesteps, case.first_frame(1))

        assert_close("flow", flow, case.tensor("perframe.flow"), case.atol("per_call"))


@each_rollout
def test_free_rollouts_with_the_recorded_noise(case: WanCase, rollout: str) -> None:
    latents = Replay(case, rollout, load_case(case)).free()

    assert_close("latents", latents, case.tensor(f"{rollout}.latents"), case.atol("rollout"))
