"""Replays recorded cases of causal Wan: with recorded inputs call by call, or freely with the recorded noise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from golden_wan import WanCase, config_of, weights_of
from reference_rollout import Stream, generate_chunk, unrotated
from torch import Tensor

from vdmrt.export.families.wan.attention import KeyValue
from vdmrt.export.families.wan.config import WanConfig
from vdmrt.export.families.wan.transformer import CausalWan

__all__ = ["Replay", "load_case", "recorded_form"]


@cache
def load_case(case: WanCase) -> CausalWan:
    """Return the network of a case of kind "rollout". Not to be changed."""
    return build(config_of(case), weights_of(case))


def build(config: WanConfig, weights: dict[str, Tensor]) -> CausalWan:
    """Return the network with weights under the original names."""
    model = CausalWan(config)
    model.load_state_dict(weights, strict=True)
    return model.eval().requires_grad_(False)


class Replay:
    """One rollout of a case on a network; ``policy`` is the network's, unless a test breaks it."""

    def __init__(self, case: WanCase, rollout: str, model: CausalWan, policy: WanConfig | None = None) -> None:
        self.case, self.rollout, self.model = case, rollout, model
        self.texts = {
            name: model.prompt(case.tensor(f"text.context{suffix}")) for name, suffix in case.prompts().items()
        }
        self.stream = Stream(model, self.texts["p0"], policy or model.config)
        self.frames_per_chunk = model.config.frames_per_chunk

    def recorded(self, name: str) -> Tensor:
        return self.case.tensor(f"{self.rollout}.{name}")

    def context(self, chunk: int) -> Tensor:
        """Return the embedding of the prompt with which a chunk is made."""
        switch = self.case.switch_chunk(self.rollout)
        switched = switch is not None and chunk >= switch
        name = self.case.rollouts[self.rollout]["prompt"] if switched else "p0"
        return self.case.tensor(f"text.context{self.case.prompts()[name]}")

    def begin(self) -> list[list[KeyValue]]:
        """Commit the given latents one by one; return what each left."""
        count = self.case.config["initial_latent_frames"]
        given = self.recorded("initial_latent") if count else torch.empty(0)
        return [self.stream.commit(given[:, frame : frame + 1], frame) for frame in range(count)]

    def switch(self, chunk: int, latents: Tensor) -> Tensor | None:
        """Change the prompt if that is due before ``chunk``; ``latents`` are all finished ones. Return the flow."""
        if chunk != self.case.switch_chunk(self.rollout):
            return None
        settings, frame = self.case.rollouts[self.rollout], self.case.first_frame(chunk)
        count = self.stream.refilled_frames(frame)
        text = self.texts[settings["prompt"]]
        return self.stream.refill(latents[:, frame - count : frame], frame, text, global_sink=settings["global_sink"])

    def forced(self) -> Iterator[int]:
        """Yield each chunk when the cache, filled from recorded latents, is ready for its denoising calls."""
        self.begin()
        latents = self.recorded("latents")
        for chunk in range(self.case.config["chunks"]):
            self.switch(chunk, latents)
            self.stream.evict(self.frames_per_chunk)
            yield chunk
            self.commit(chunk)

    def commit(self, chunk: int) -> None:
        """Commit the recorded latents of a chunk, unless that has been done."""
        start = self.case.first_frame(chunk)
        if not any(frame.number == start for frame in self.stream.cached):
            self.stream.commit(self.recorded("latents")[:, start : start + self.frames_per_chunk], start)

    def predict(self, chunk: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_t, timestep and this network's flow of a recorded denoising call."""
        x_t, timestep = (self.case.step(self.rollout, name, chunk, step) for name in ("x_t", "timestep"))
        return x_t, timestep, self.stream.denoise(x_t, timestep, self.case.first_frame(chunk))

    def free(self) -> Tensor:
        """Return the latents of a free rollout with the recorded noise, [B, all frames, c, h, w]."""
        self.begin()
        given = self.case.config["initial_latent_frames"]
        made = [self.recorded("initial_latent")] if given else []
        noise = self.case.tensor(f"{self.case.noise_of(self.rollout)}.init_noise")
        for chunk in range(self.case.config["chunks"]):
            if made:
                self.switch(chunk, torch.cat(made, dim=1))
            start = self.case.first_frame(chunk)
            own = noise[:, start - given : start - given + self.frames_per_chunk]
            made.append(self._generate(chunk, own))
        return torch.cat(made, dim=1)

    def _generate(self, chunk: int, noise: Tensor) -> Tensor:
        source = self.case.noise_of(self.rollout)

        def fresh(step: int) -> Tensor:
            return self.case.step(source, "step_noise", chunk, step)

        start, timesteps = self.case.first_frame(chunk), self.case.timesteps(chunk)
        return generate_chunk(self.stream, noise, start, timesteps, self.case.grid, fresh)

    def cache(self) -> tuple[Tensor, Tensor]:
        """Return the whole cache in window order, as recorded: keys and values [layer, B, tokens, H, d]."""
        frames = self.stream.cached
        layers = [[frame.pairs[layer] for frame in frames] for layer in range(self.model.config.layers)]
        pairs = [(torch.cat([k for k, _ in layer], dim=2), torch.cat([v for _, v in layer], dim=2)) for layer in layers]
        return self.recorded_form(pairs, [frame.number for frame in frames])

    def recorded_form(self, pairs: list[KeyValue], numbers: list[int]) -> tuple[Tensor, Tensor]:
        """Return keys and values of latent frames as recorded; raw keys are turned back from their positions."""
        if self.case.policy["keys_stored"] == "raw":
            pairs = [(unrotated(key, numbers, self.model), value) for key, value in pairs]
        return recorded_form(pairs)


def recorded_form(pairs: list[KeyValue]) -> tuple[Tensor, Tensor]:
    """Return each layer's keys and values [B, H, tokens, d] as recorded, [layer, B, tokens, H, d]."""
    key, value = (torch.stack([pair[part] for pair in pairs]).transpose(2, 3).contiguous() for part in (0, 1))
    return key, value
