"""The three graphs of causal Wan as torch modules: prompt, cache fill and cached denoise.

A request is one transformer row: the models are distilled, and have no guidance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ....bundle import Role, TensorSpec
from ...onnx_graph import Exportable
from ..ca2vdm.attention import MASKED
from ..ca2vdm.graphs import update
from .attention import heads_first
from .block import Block, Pass
from .config import split_pairs
from .plain_norm import with_plain_norms
from .rotary import join_tables, turn_frames
from .sinusoid import Sinusoid

if TYPE_CHECKING:
    from ....bundle import Geometry
    from .attention import KeyValue
    from .transformer import CausalWan

__all__ = ["DenoiseGraph", "FillGraph", "PromptGraph"]

CacheType = Literal["float32", "float16"]


class _Graph(Exportable):
    """Base class of the graphs: tensors by name, and keys and values of all layers."""

    def __init__(self, model: CausalWan, geometry: Geometry) -> None:
        super().__init__()
        self.model = with_plain_norms(model)
        self.geometry = geometry
        weight = next(iter(model.blocks)).get_parameter("self_attn.k.weight")
        self.cache_type: CacheType = "float16" if weight.dtype == torch.float16 else "float32"

    def named(self, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the inputs by name."""
        return {spec.name: tensor for spec, tensor in zip(self.inputs, tensors, strict=True)}

    def cached(self, tensors: list[KeyValue]) -> tuple[Tensor, ...]:
        """Return the keys and values of all layers as outputs, in the cache's type."""
        return tuple(part.to(getattr(torch, self.cache_type)) for pair in tensors for part in pair)

    def keys_values(self, stem: str, roles: tuple[Role, Role], layers: int, shape: tuple[int, ...]) -> list[TensorSpec]:
        """Return the specs of the first ``layers`` layers' keys and values, named ``stem``_k.i and ``stem``_v.i."""
        return [
            TensorSpec(f"{stem}_{part}.{layer}", self.cache_type, shape, role, layer)
            for layer in range(layers)
            for part, role in zip("kv", roles, strict=True)
        ]

    def text_keys_values(self, layers: int, requests: int) -> list[TensorSpec]:
        """Return the specs of the prompt's keys and values, [B, H, tokens, d]."""
        g = self.geometry
        shape = (requests, g.heads, g.text_tokens, g.head_size)
        return self.keys_values("text", (Role.TEXT_KEY, Role.TEXT_VALUE), layers, shape)


class PromptGraph(_Graph):
    """The prompt's keys and values for the cross-attention of each layer (one request a run)."""

    def __init__(self, model: CausalWan, geometry: Geometry) -> None:
        super().__init__(model, geometry)
        g = geometry
        self.inputs = (TensorSpec("text", "float32", (1, g.text_tokens, g.text_width), Role.TEXT),)
        self.outputs = tuple(self.text_keys_values(g.layers, 1))

    def forward(self, text: Tensor) -> tuple[Tensor, ...]:
        """Map :attr:`inputs` to :attr:`outputs`."""
        return self.cached(self.model.prompt(text))


class _CachedGraph(_Graph):
    """Base class of fill and denoise: everything that one pass over a chunk reads beside the latent."""

    def __init__(self, model: CausalWan, geometry: Geometry) -> None:
        super().__init__(model, geometry)
        self.sinusoid = Sinusoid(model.config.freq_dim)
        self.turns_sinks = model.config.positions == "window" and geometry.policy.sinks > 0

    def prepare(self, timestep: Tensor, named: dict[str, Tensor]) -> tuple[Tensor, Pass]:
        """Return the embedding [B, T, C] of ``timestep`` [B, T], and what all blocks share."""
        # One line a frame: products of matrices are exported as Gemms, which keep the names of their weights.
        embedding: Tensor = self.model.time_embedding(self.sinusoid(timestep.reshape(-1)))
        modulation = self.model.time_projection(embedding).reshape(*timestep.shape, 6, -1)
        table = join_tables(named["positions"], self.model.space)
        return embedding.reshape(*timestep.shape, -1), Pass(modulation, table, self.bias(named["slot_valid"]))

    def bias(self, slot_valid: Tensor) -> Tensor:
        """Return the bias of the tokens of slots and chunk, [B, 1, 1, (K + T) * S], 0 where they are visible."""
        g = self.geometry
        past = (1.0 - slot_valid) * MASKED
        whole = torch.cat([past, torch.zeros(len(past), g.chunk_frames, device=past.device)], dim=1)
        by_token = whole[:, :, None].expand(-1, -1, g.tokens_per_frame).reshape(len(past), 1, 1, -1)
        return by_token.to(getattr(torch, self.cache_type))

    def run_block(self, layer: int, x: Tensor, shared: Pass, named: dict[str, Tensor]) -> tuple[Tensor, KeyValue]:
        """Advance x [B, T, S, C] by one block; return also the keys and values [B, n, H, d] of its tokens."""
        text = named[f"text_k.{layer}"], named[f"text_v.{layer}"]
        return self.block(layer)(x, shared, self._past(layer, named), text)  # type: ignore[no-any-return]

    def block(self, layer: int) -> Block:
        """Return a block of the model."""
        block = self.model.blocks[layer]
        assert isinstance(block, Block)
        return block

    def chunk_inputs(self, requests: int) -> list[TensorSpec]:
        """Return the specs of latent, positions and visibility."""
        g = self.geometry
        pairs = split_pairs(g.head_size)[0]
        specs = [
            TensorSpec("latent", "float32", (requests, g.chunk_frames, *g.latent_shape), Role.LATENT),
            TensorSpec("positions", "float32", (requests, g.chunk_frames, 2, pairs), Role.POSITIONS),
            TensorSpec("slot_valid", "float32", (requests, g.slots), Role.SLOT_VALID),
        ]
        if self.turns_sinks:
            specs.append(TensorSpec("sink_turn", "float32", (requests, 2, pairs), Role.KEY_POSITIONS))
        return specs

    def past_inputs(self, layers: int, requests: int) -> list[TensorSpec]:
        """Return the specs of the first ``layers`` layers of the cache, [B, H, K * S, d]."""
        shape = self.geometry.cache_shape(requests, self.geometry.slots)
        return self.keys_values("past", (Role.PAST_KEY, Role.PAST_VALUE), layers, shape)

    def _past(self, layer: int, named: dict[str, Tensor]) -> KeyValue:
        key, value = named[f"past_k.{layer}"], named[f"past_v.{layer}"]
        if not self.turns_sinks:
            return key, value
        tokens = self.geometry.policy.sinks * self.geometry.tokens_per_frame
        sinks = turn_frames(key[:, :, :tokens], named["sink_turn"])
        return torch.cat([sinks, key[:, :, tokens:]], dim=2), value


class FillGraph(_CachedGraph):
    """Cache fill: the keys and values of one finished chunk (one request a run); the last layer ends with them."""

    def __init__(self, model: CausalWan, geometry: Geometry) -> None:
        super().__init__(model, geometry)
        g = geometry
        read = g.layers - 1
        self.inputs = (*self.chunk_inputs(1), *self.past_inputs(read, 1), *self.text_keys_values(read, 1))
        roles, shape = (Role.PRESENT_KEY, Role.PRESENT_VALUE), g.cache_shape(1, g.chunk_frames)
        self.outputs = tuple(self.keys_values("present", roles, g.layers, shape))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Map :attr:`inputs` to :attr:`outputs`."""
        named, last = self.named(tensors), self.geometry.layers - 1
        latent = named["latent"]
        timestep = torch.full(latent.shape[:2], self.model.config.context_timestep, device=latent.device)
        _, shared = self.prepare(timestep, named)
        x, written = self.model.patch_embedding(latent), []
        for layer in range(last):
            x, own = self.run_block(layer, x, shared, named)
            written.append(heads_first(own))
        return self.cached([*written, heads_first(self.block(last).keys_values(x, shared))])


class DenoiseGraph(_CachedGraph):
    """Cached denoise: one denoising step of every request, including the sampler's update.

    Attributes:
        per_frame: Whether timesteps and coefficients differ between the latent frames of a chunk; they then have an
            axis T after N.
    """

    def __init__(self, model: CausalWan, geometry: Geometry, *, per_frame: bool = False) -> None:
        super().__init__(model, geometry)
        self.per_frame = per_frame
        g = geometry
        requests, steps = g.requests, g.max_steps + 1
        latent = (requests, g.chunk_frames, *g.latent_shape)
        frames = (g.chunk_frames,) if per_frame else ()
        inputs = self.chunk_inputs(requests)
        inputs += self.past_inputs(g.layers, requests) + self.text_keys_values(g.layers, requests)
        inputs += [
            TensorSpec("step", "int32", (requests,), Role.STEP),
            TensorSpec("timesteps", "float32", (requests, steps, *frames), Role.TIMESTEPS),
            TensorSpec("coefficients", "float32", (requests, steps, *frames, 8), Role.COEFFICIENTS),
        ]
        if g.stochastic:
            inputs.append(TensorSpec("noise", "float32", (requests, steps, *latent[1:]), Role.NOISE))
        self.inputs = (*inputs, TensorSpec("history", "float32", latent, Role.HISTORY))
        self.outputs = (
            TensorSpec("next_latent", "float32", latent, Role.NEXT_LATENT),
            TensorSpec("next_step", "int32", (requests,), Role.NEXT_STEP),
            TensorSpec("next_history", "float32", latent, Role.NEXT_HISTORY),
        )

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Map :attr:`inputs` to :attr:`outputs`."""
        named = self.named(tensors)
        requests, steps = named["timesteps"].shape[:2]
        step = named["step"].clamp(max=steps - 1)
        lines = step + torch.arange(requests, dtype=torch.int32, device=step.device) * steps

        def row(name: str) -> Tensor:
            return nn.functional.embedding(lines, named[name].reshape(requests * steps, -1))

        flow = self.predict(named, row("timesteps").expand(-1, self.geometry.chunk_frames))
        noise = row("noise") if self.geometry.stochastic else None
        following, clean = self.advance(row("coefficients"), named, flow, noise)
        return following, (step + 1).clamp(max=steps - 1), clean

    def predict(self, named: dict[str, Tensor], timestep: Tensor) -> Tensor:
        """Return the flow, noise minus clean latents, [R, T, c, h, w], at ``timestep`` [R, T]."""
        embedding, shared = self.prepare(timestep, named)
        x = self.model.patch_embedding(named["latent"])
        for layer in range(self.geometry.layers):
            x, _ = self.run_block(layer, x, shared, named)
        head = self.model.head
        return head.unpatchify(head(x, embedding))

    def advance(
        self, coefficients: Tensor, named: dict[str, Tensor], flow: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the next latent and the clean one, [R, T, c, h, w]; ``coefficients`` are 8 a request or a frame."""
        rows, shape = coefficients.reshape(-1, 8), self.geometry.latent_shape

        def grouped(tensor: Tensor) -> Tensor:
            return tensor.reshape(len(rows), -1, *shape)

        following, clean = update(
            rows,
            grouped(named["latent"]),
            grouped(flow),
            grouped(named["history"]),
            None,
            None if noise is None else grouped(noise),
        )
        return following.reshape(flow.shape), clean.reshape(flow.shape)
