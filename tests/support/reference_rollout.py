"""A rollout of a causal Wan model in plain torch: the cache is a list of latent frames, in window order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from reference_sampler import FlowGrid
from torch import Tensor

from vdmrt.export.families.wan.attention import KeyValue
from vdmrt.export.families.wan.config import NO_WINDOW, WanConfig
from vdmrt.export.families.wan.rotary import frame_table, join_tables, rotate, turn_frames
from vdmrt.export.families.wan.transformer import CausalWan

__all__ = ["CachedFrame", "Stream", "frame_angles", "generate_chunk", "unrotated"]


@dataclass(frozen=True)
class CachedFrame:
    """Keys and values of one latent frame: for each layer a pair, each [B, H, S, d], keys at absolute positions."""

    number: int
    pairs: list[KeyValue]


@dataclass
class Stream:
    """One video in the making. The first ``sink_frames`` entries of the cache are pinned.

    Attributes:
        model: The network.
        text: The prompt's keys and values of each layer.
        policy: Window, sinks and positions; those of ``model``, unless a test breaks them.
        cached: The cache, sinks first.
    """

    model: CausalWan
    text: list[KeyValue]
    policy: WanConfig
    cached: list[CachedFrame] = field(default_factory=list)

    def evict(self, count: int) -> None:
        """Drop the oldest latent frames that are no sinks until ``count`` new ones fit."""
        while self.policy.window_frames != NO_WINDOW and len(self.cached) + count > self.policy.window_frames:
            del self.cached[self.policy.sink_frames]

    def past(self, start: int) -> list[KeyValue] | None:
        """Return all cached keys and values for a chunk that starts at latent frame ``start``."""
        return joined(self.cached, self.policy, self.policy.sink_shift(start))

    def denoise(self, x_t: Tensor, timestep: Tensor, start: int) -> Tensor:
        """Return the flow of a chunk [B, F, c, h, w] at ``timestep`` [B, F]."""
        angles = frame_angles(self.policy, start, x_t.shape[1], len(x_t))
        return self.model.denoise(x_t, timestep, angles, self.past(start), self.text)

    def commit(self, latents: Tensor, start: int) -> list[KeyValue]:
        """Append finished latent frames [B, F, c, h, w] to the cache; return their keys and values."""
        angles = frame_angles(self.policy, start, latents.shape[1], len(latents))
        written = self.model.fill(latents, angles, self.past(start), self.text)
        self.cached += split(written, start, latents.shape[1])
        return written

    def refilled_frames(self, frame: int) -> int:
        """Return how many finished latent frames a switch of the prompt before ``frame`` runs over."""
        window = self.policy.window_frames
        return frame if window == NO_WINDOW else min(window, frame)

    def keep_sinks(self, frame: int, *, global_sink: bool) -> int:
        """Drop all of the cache but the sinks that survive a switch before ``frame``; return their number."""
        kept = self.policy.sink_frames if global_sink and frame > self.refilled_frames(frame) else 0
        self.cached = self.cached[:kept]
        return kept

    def refill(self, latents: Tensor, frame: int, text: list[KeyValue], *, global_sink: bool) -> Tensor:
        """Change the prompt before ``frame`` and write the last latent frames anew.

        Args:
            latents: The m frames before ``frame``, [B, m, c, h, w].
            frame: Number of the next latent frame.
            text: The new prompt's keys and values.
            global_sink: Whether sinks older than ``latents`` keep their keys and values.

        Returns:
            The unused flow, [B, m, c, h, w].
        """
        batch, count = latents.shape[:2]
        self.text = text
        kept = self.keep_sinks(frame, global_sink=global_sink)
        past, angles = joined(self.cached, self.policy, 0), frame_angles(self.policy, frame - count, count, batch)
        timestep = torch.full((batch, count), self.policy.context_timestep)
        flow = self.model.denoise(latents, timestep, angles, past, text, silent_frames=kept)
        written = self.model.fill(latents, angles, past, text, silent_frames=kept)
        self.cached += split(written, frame - count + kept, count - kept)
        return flow


def generate_chunk(
    stream: Stream,
    noise: Tensor,
    start: int,
    timesteps: Sequence[float],
    grid: FlowGrid,
    fresh: Callable[[int], Tensor],
) -> Tensor:
    """Make one chunk from ``noise`` [B, F, c, h, w] and commit it; ``fresh`` returns the noise after a step."""
    stream.evict(noise.shape[1])
    x, count = noise, len(timesteps)
    for step, value in enumerate(timesteps):
        timestep = torch.full(noise.shape[:2], value)
        x = grid.clean(x, stream.denoise(x, timestep, start), timestep)
        if step + 1 < count:
            x = grid.renoise(x, fresh(step), torch.full(noise.shape[:2], timesteps[step + 1]))
    stream.commit(x, start)
    return x


def frame_angles(config: WanConfig, start: int, count: int, batch: int) -> Tensor:
    """Return the angles of consecutive latent frames, [batch, count, 2, frame pairs]."""
    table = torch.from_numpy(frame_table(range(start, start + count), config.head_size))
    return table.expand(batch, -1, -1, -1)


def split(written: list[KeyValue], start: int, count: int) -> list[CachedFrame]:
    """Divide the keys and values of consecutive latent frames."""
    layers = [(key.chunk(count, dim=2), value.chunk(count, dim=2)) for key, value in written]
    return [CachedFrame(start + n, [(key[n], value[n]) for key, value in layers]) for n in range(count)]


def joined(cached: list[CachedFrame], policy: WanConfig, shift: int) -> list[KeyValue] | None:
    """Return each layer's cached keys and values, each [B, H, K * S, d], with the sinks moved by ``shift`` frames."""
    if not cached:
        return None
    frames = [moved(frame, policy, shift) for frame in cached[: policy.sink_frames]] + cached[policy.sink_frames :]
    layers = zip(*(frame.pairs for frame in frames), strict=True)
    return [
        (torch.cat([key for key, _ in pairs], dim=2), torch.cat([value for _, value in pairs], dim=2))
        for pairs in layers
    ]


def moved(frame: CachedFrame, policy: WanConfig, shift: int) -> CachedFrame:
    """Return a latent frame whose keys are at another position."""
    turn = torch.from_numpy(frame_table(shift, policy.head_size))[None]
    return CachedFrame(frame.number + shift, [(turn_frames(key, turn), value) for key, value in frame.pairs])


def unrotated(keys: Tensor, numbers: Sequence[int], model: CausalWan) -> Tensor:
    """Return keys [B, H, frames * S, d] as they were before their rotation by the latent frames' ``numbers``."""
    frames = torch.from_numpy(frame_table(numbers, model.config.head_size))[None]
    cosine, sine = join_tables(frames, model.space)
    return rotate(keys, torch.stack([cosine, -sine]), heads=1)
