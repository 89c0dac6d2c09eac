"""A second model family, as a user would add it: joint attention, two sinks, no temporal table, flow matching."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from vdmrt.bundle import (
    CacheLayout,
    CachePolicy,
    CacheProjections,
    Geometry,
    ParameterNames,
    PositionScheme,
    Precision,
    Role,
    Stage,
    TensorSpec,
)
from vdmrt.errors import ExportError
from vdmrt.export import ExportOptions, register_family
from vdmrt.export.onnx_graph import Exportable

__all__ = ["SINKS", "Toy", "ToyConfig", "ToyModel", "roll_out"]

SINKS = 2
HIDDEN = -30000.0


@dataclass(frozen=True)
class ToyConfig:
    """Configuration of a model with one token for each latent position."""

    family: ClassVar[str] = "toy"

    latent_size: tuple[int, int] = (4, 4)
    channels: int = 3
    depth: int = 3
    heads: int = 2
    head_size: int = 8

    def describe(self) -> str:
        return f"a toy of depth {self.depth}"


class ToyModel(nn.Module):
    """A transformer with attention over all visible tokens of all frames."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        width = config.heads * config.head_size
        self.embed = nn.Linear(config.channels, width)
        self.place = nn.Parameter(torch.randn(config.latent_size[0] * config.latent_size[1], width))
        self.time = nn.Linear(1, width)
        self.layers = nn.ModuleList(ToyBlock(width, config.heads) for _ in range(config.depth))
        self.head = nn.Linear(width, config.channels)

    def blocks(self) -> Iterator[ToyBlock]:
        """Yield the layers."""
        yield from cast(Iterable[ToyBlock], self.layers)

    def tokens(self, latent: Tensor, timesteps: Tensor) -> Tensor:
        """Embed latent [B, F, c, h, w] at timesteps [B, F] as [B, F·S, C]."""
        embedded: Tensor = self.embed(latent.flatten(3).transpose(2, 3)) + self.place
        embedded = embedded + self.time(timesteps[..., None] / 1000.0)[:, :, None]
        return embedded.flatten(1, 2)

    def flow(self, x: Tensor, like: Tensor) -> Tensor:
        """Project x [B, F·S, C] to the flow, shaped as the latent."""
        rows, frames, channels, height, width = like.shape
        flat: Tensor = self.head(x).reshape(rows, frames, height * width, channels)
        return flat.transpose(2, 3).reshape(like.shape)


class ToyBlock(nn.Module):
    """Attention and an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def project(self, linear: nn.Linear, x: Tensor) -> Tensor:
        """Project x [B, n, C] to heads [B, H, n, d], as one 2-D product that exports as a Gemm."""
        flat: Tensor = linear(nn.functional.layer_norm(x, x.shape[-1:]).flatten(0, 1))
        return flat.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's output [B, H, n, d] and the MLP to x [B, n, C]."""
        x = x + self.o(attended.transpose(1, 2).reshape(-1, x.shape[-1])).reshape(x.shape)
        hidden = torch.tanh(self.up(nn.functional.layer_norm(x, x.shape[-1:]).flatten(0, 1)))
        advanced: Tensor = x + self.down(hidden).reshape(x.shape)
        return advanced


def attend(query: Tensor, keys: list[Tensor], values: list[Tensor], biases: list[Tensor]) -> Tensor:
    """Attend to several groups of keys in one softmax, all [B, H, n, d]; no keys are copied."""
    query = query * query.shape[-1] ** -0.5
    scores = torch.cat([query @ key.transpose(-1, -2) + bias for key, bias in zip(keys, biases, strict=True)], -1)
    parts = torch.split(scores.softmax(-1), [key.shape[2] for key in keys], -1)
    return sum((part @ value for part, value in zip(parts, values, strict=True)), torch.zeros(()))


class ToyGraph(Exportable):
    """Base class of both graphs: the cache and its visibility."""

    def __init__(self, model: ToyModel, geometry: Geometry, requests: int) -> None:
        super().__init__()
        self.model, self.geometry = model, geometry
        g = self.geometry
        self.latent = (requests, g.chunk_frames, *g.latent_shape)
        self.shared = (
            TensorSpec("frames", "float32", self.latent, Role.LATENT),
            TensorSpec("seen", "float32", (requests, g.slots), Role.SLOT_VALID),
        )

    def cached(self, name: str, roles: tuple[Role, Role], frames: int) -> tuple[TensorSpec, ...]:
        shape = self.geometry.cache_shape(self.latent[0], frames)
        return tuple(
            TensorSpec(f"{name} {role} of {layer}", "float32", shape, role, layer)
            for layer in range(self.geometry.layers)
            for role in roles
        )

    def past_bias(self, seen: Tensor) -> Tensor:
        spread = seen[:, :, None].expand(-1, -1, self.geometry.tokens_per_frame)
        return (1.0 - spread.reshape(seen.shape[0], 1, 1, -1)) * HIDDEN


class ToyFill(ToyGraph):
    """Computes keys and values of clean frames, with attention to the cache and causal attention within the chunk."""

    def __init__(self, model: ToyModel, geometry: Geometry) -> None:
        super().__init__(model, geometry, 1)
        past = self.cached("old", (Role.PAST_KEY, Role.PAST_VALUE), geometry.slots)
        self.inputs = (*self.shared, *past[:-2])
        self.outputs = self.cached("new", (Role.PRESENT_KEY, Role.PRESENT_VALUE), geometry.chunk_frames)

    def forward(self, latent: Tensor, seen: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        x = self.model.tokens(latent, torch.zeros(latent.shape[:2]))
        frame = torch.arange(self.geometry.chunk_frames).repeat_interleave(self.geometry.tokens_per_frame)
        later = (frame[None] > frame[:, None]).float() * HIDDEN
        present: list[Tensor] = []
        for layer, block in enumerate(self.model.blocks()):
            query, key, value = (block.project(linear, x) for linear in (block.q, block.k, block.v))
            present += [key, value]
            if layer < self.geometry.layers - 1:
                old_key, old_value = past[2 * layer : 2 * layer + 2]
                biases = [self.past_bias(seen), later]
                x = block(x, attend(query, [old_key, key], [old_value, value], biases))
        return tuple(present)


class ToyDenoise(ToyGraph):
    """One denoising step of a noisy chunk, with attention to the cache and within the chunk."""

    def __init__(self, model: ToyModel, geometry: Geometry) -> None:
        super().__init__(model, geometry, geometry.requests)
        requests, steps = geometry.requests, geometry.max_steps + 1
        self.inputs = (
            *self.shared,
            TensorSpec("now", "int32", (requests,), Role.STEP),
            TensorSpec("times", "float32", (requests, steps), Role.TIMESTEPS),
            TensorSpec("table", "float32", (requests, steps, 8), Role.COEFFICIENTS),
            TensorSpec("estimate", "float32", self.latent, Role.HISTORY),
            *self.cached("old", (Role.PAST_KEY, Role.PAST_VALUE), geometry.slots),
        )
        self.outputs = (
            TensorSpec("cleaner", "float32", self.latent, Role.NEXT_LATENT),
            TensorSpec("after", "int32", (requests,), Role.NEXT_STEP),
            TensorSpec("better", "float32", self.latent, Role.NEXT_HISTORY),
        )

    def forward(
        self, latent: Tensor, seen: Tensor, step: Tensor, times: Tensor, table: Tensor, history: Tensor, *past: Tensor
    ) -> tuple[Tensor, ...]:
        requests, steps = times.shape
        step = step.clamp(max=steps - 1)
        line = step + torch.arange(requests, dtype=torch.int32) * steps
        now = nn.functional.embedding(line, times.reshape(-1, 1)).expand(-1, latent.shape[1])
        x = self.model.tokens(latent, now)
        for layer, block in enumerate(self.model.blocks()):
            query, key, value = (block.project(linear, x) for linear in (block.q, block.k, block.v))
            old_key, old_value = past[2 * layer : 2 * layer + 2]
            biases = [self.past_bias(seen), torch.zeros(())]
            x = block(x, attend(query, [old_key, key], [old_value, value], biases))
        row = nn.functional.embedding(line, table.reshape(-1, 8))
        a_x, a_m, b_x, b_0, b_h = (row[:, i : i + 1, None, None, None] for i in range(5))
        clean = a_x * latent + a_m * self.model.flow(x, latent)
        return b_x * latent + b_0 * clean + b_h * history, (step + 1).clamp(max=steps - 1), clean


class Toy:
    """The family."""

    name = "toy"
    presets: Mapping[str, Mapping[str, Any]] = {"toy-3": {"depth": 3}}

    def read_config(self, arguments: Mapping[str, Any], latent_size: tuple[int, int] | None = None) -> ToyConfig:
        given: dict[str, Any] = {**self.presets.get(str(arguments.get("type")), {}), **arguments}
        given.pop("type", None)
        unknown = given.keys() - {field.name for field in dataclasses.fields(ToyConfig)}
        if unknown:
            raise ExportError(f"unknown argument {min(unknown)!r}")
        if latent_size is not None:
            given["latent_size"] = latent_size
        return ToyConfig(**given)

    def make_geometry(self, config: ToyConfig, options: ExportOptions) -> Geometry:
        height, width = config.latent_size
        return Geometry(
            layers=config.depth,
            heads=config.heads,
            head_size=config.head_size,
            tokens_per_frame=height * width,
            latent_channels=config.channels,
            latent_height=height,
            latent_width=width,
            chunk_frames=options.chunk_frames,
            layout=CacheLayout.JOINT,
            policy=CachePolicy(SINKS, options.slots - SINKS),
            requests=options.requests,
            rows_per_request=1,
            max_steps=options.max_steps,
            positions=PositionScheme("none", 0),
            context=None,
            context_frames=0,
            text_tokens=0,
            text_width=0,
            learned_variance=False,
            stochastic=False,
        )

    def parameters(self, config: ToyConfig) -> ParameterNames:
        q, k, v, o = (f"layers.{{layer}}.{name}" for name in "qkvo")
        around = CacheProjections(q, k, v, o)
        return ParameterNames("layers.{layer}.", floating=("embed", "time", "head"), projections=around)

    def caution(self, geometry: Geometry) -> str | None:
        return None

    def build(self, config: ToyConfig) -> ToyModel:
        return ToyModel(config)

    def select_weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(tensors)

    def make_graphs(self, model: ToyModel, geometry: Geometry, precision: Precision) -> Mapping[Stage, Exportable]:
        return {Stage.FILL: ToyFill(model, geometry), Stage.DENOISE: ToyDenoise(model, geometry)}

    def null_text(self, model: ToyModel) -> Tensor | None:
        return None


register_family(Toy())


def roll_out(model: ToyModel, given: Tensor, noises: list[Tensor], slots: int, steps: int) -> Tensor:
    """Generate without a cache: recompute everything from all frames so far, under one mask.

    Args:
        model: The model.
        given: Clean frames, given in one chunk, [n, c, h, w].
        noises: Initial noise of each further chunk, [T, c, h, w].
        slots: Number of frames that are visible to a new chunk: the first two and the last ones.
        steps: Euler steps from noise to data.

    Returns:
        All frames, [frames, c, h, w].
    """
    clean, starts = given, [0]
    for noise in noises:
        latent, first = noise, len(clean)
        for step in range(steps):
            level = 1.0 - step / steps
            latent = latent - _flow(model, clean, latent, 1000.0 * level, starts, slots) / steps
        clean = torch.cat([clean, latent])
        starts.append(first)
    return clean


def _flow(model: ToyModel, clean: Tensor, noisy: Tensor, timestep: float, starts: list[int], slots: int) -> Tensor:
    frames = torch.cat([clean, noisy])[None]
    times = torch.zeros(1, frames.shape[1])
    times[:, len(clean) :] = timestep
    x = model.tokens(frames, times)
    bias = _mask(len(clean), frames.shape[1], starts, slots).repeat_interleave(len(model.place), 0)
    bias = bias.repeat_interleave(len(model.place), 1)
    for block in model.blocks():
        query, key, value = (block.project(linear, x) for linear in (block.q, block.k, block.v))
        x = block(x, attend(query, [key], [value], [bias]))
    return model.flow(x, frames)[0, len(clean) :]


def _mask(clean: int, frames: int, starts: list[int], slots: int) -> Tensor:
    """Return the bias [frames, frames]: visible are the frames that were cached when the chunk began, and the chunk."""
    bias = torch.full((frames, frames), HIDDEN)
    for frame in range(frames):
        first = max(start for start in [*starts, clean] if start <= frame)
        own = frames if frame >= clean else frame + 1
        bias[frame, : min(SINKS, first)] = 0.0
        bias[frame, max(0, first - (slots - SINKS)) : first] = 0.0
        bias[frame, first:own] = 0.0
    return bias
