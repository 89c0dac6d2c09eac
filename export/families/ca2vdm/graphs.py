"""The two graphs as torch modules: cache fill and cached denoise, with the tensors that the runtime binds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from ....bundle import Role, TensorSpec
from ...onnx_graph import Exportable
from .attention import (
    MASKED,
    attend,
    attend_cached,
    attend_context,
    parts,
    rotate,
)

if TYPE_CHECKING:
    from ....bundle import Geometry
    from .attention import (
        CrossFrameAttention,
        TemporalAttention,
    )
    from .transformer import CausalTransformer

__all__ = ["DenoiseGraph", "FillGraph"]

CacheType = Literal["float32", "float16"]


class _Graph(Exportable):
    """Base class of both graphs: rows of requests, masks, positions, and common tensors."""

    def __init__(self, model: CausalTransformer, geometry: Geometry) -> None:
        super().__init__()
        self.model = model
        self.geometry = geometry
        self.cache_type: CacheType = "float16" if model.block_dtype == torch.float16 else "float32"

    def named(self, tensors: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Return the inputs by name."""
        return {spec.name: tensor for spec, tensor in zip(self.inputs, tensors, strict=True)}

    def to_rows(self, per_request: Tensor) -> Tensor:
        """Repeat [requests, ...] to rows; the rows of one request are adjacent."""
        group = self.geometry.rows_per_request
        if group == 1:
            return per_request
        requests, *rest = per_request.shape
        return per_request[:, None].expand(requests, group, *rest).reshape(requests * group, *rest)

    def bias(self, slot_valid: Tensor, *, causal: bool) -> Tensor:
        """Return the bias of the slots and the chunk's frames, [B, 1, 1, K + T], or [B, 1, T, K + T] where causal.

        It is 0 where a slot is visible; if ``causal``, a frame of the chunk is hidden from earlier ones.
        """
        chunk = self.geometry.chunk_frames
        past = ((1.0 - self.to_rows(slot_valid)) * MASKED)[:, None, None].to(getattr(torch, self.cache_type))
        own = torch.full((chunk, chunk), MASKED, dtype=past.dtype, device=past.device).triu(1)
        own = own if causal else torch.zeros_like(own[:1])
        return torch.cat([past.expand(-1, -1, len(own), -1), own.expand(len(past), 1, -1, -1)], dim=-1)

    def text(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Return the projected text and its bias, or None without text."""
        if self.geometry.text_width == 0:
            return None
        return self.model.project_text(tensors["text"], tensors["text_mask"])

    def rotation(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
        """Return RoPE's tables for the queries and for the keys of slots and chunk, or None without RoPE."""
        if self.geometry.positions.kind != "rope":
            return None
        query, key = (self._angles(self.to_rows(tensors[name])) for name in ("positions", "key_positions"))
        return query, key

    def _angles(self, positions: Tensor) -> Tensor:
        tables = [nn.functional.embedding(positions, self.model.rope[part]) for part in range(2)]
        return torch.stack(tables).to(getattr(torch, self.cache_type))

    def _common_inputs(self, requests: int) -> list[TensorSpec]:
        g = self.geometry
        specs = [
            TensorSpec("latent", "float32", (requests, g.chunk_frames, *g.latent_shape), Role.LATENT),
            TensorSpec("positions", "int32", (requests, g.chunk_frames), Role.POSITIONS),
            TensorSpec("slot_valid", "float32", (requests, g.slots), Role.SLOT_VALID),
        ]
        if g.positions.kind == "rope":
            keys = requests, g.slots + g.chunk_frames
            specs.append(TensorSpec("key_positions", "int32", keys, Role.KEY_POSITIONS))
        return specs

    def _text_inputs(self, requests: int) -> list[TensorSpec]:
        g = self.geometry
        if g.text_width == 0:
            return []
        rows = requests * g.rows_per_request
        return [
            TensorSpec("text", "float32", (rows, g.text_tokens, g.text_width), Role.TEXT),
            TensorSpec("text_mask", "float32", (rows, g.text_tokens), Role.TEXT_MASK),
        ]

    def _past(self, layers: int, requests: int) -> list[TensorSpec]:
        shape = self.geometry.cache_shape(requests * self.geometry.rows_per_request, self.geometry.slots)
        return self._keys_values("past", (Role.PAST_KEY, Role.PAST_VALUE), layers, shape)

    def _present(self) -> list[TensorSpec]:
        g = self.geometry
        shape = g.cache_shape(g.rows_per_request, g.chunk_frames)
        return self._keys_values("present", (Role.PRESENT_KEY, Role.PRESENT_VALUE), g.layers, shape)

    def _context(self, requests: int) -> list[TensorSpec]:
        g = self.geometry
        if g.context is None:
            return []
        shape = (requests * g.rows_per_request, g.heads, g.context_frames * g.tokens_per_frame, g.head_size)
        return self._keys_values("context", (Role.CONTEXT_KEY, Role.CONTEXT_VALUE), g.layers, shape)

    def _keys_values(
        self, stem: str, roles: tuple[Role, Role], layers: int, shape: tuple[int, ...]
    ) -> list[TensorSpec]:
        return [
            TensorSpec(f"{stem}_{part}.{layer}", self.cache_type, shape, role, layer)
            for layer in range(layers)
            for part, role in zip("kv", roles, strict=True)
        ]


class _TimeView:
    """Temporal attention over the cache and the chunk, for both graphs."""

    def __init__(self, tensors: dict[str, Tensor], bias: Tensor, rotation: tuple[Tensor, Tensor] | None) -> None:
        self.tensors = tensors
        self.bias = bias
        self.rotation = rotation

    def over_cache(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend from the chunk's queries to the slots and the chunk, each [B, T, S*H, d]."""
        past_key, past_value = self.tensors[f"past_k.{layer}"], self.tensors[f"past_v.{layer}"]
        if self.rotation is not None:
            at_query, at_key = self.rotation
            slots = past_key.shape[2]
            query, key = rotate(query, at_query), rotate(key, at_key[:, :, slots:])
            past_key = rotate(past_key, at_key[:, :, :slots], heads=1)
        return attend_cached(query, (past_key, past_value), (key, value), self.bias)


class FillGraph(_Graph):
    """Cache fill: computes K, V and the cross-frame context of one clean chunk at timestep 0 (one request a run)."""

    def __init__(self, model: CausalTransformer, geometry: Geometry) -> None:
        super().__init__(model, geometry)
        g = geometry
        inputs = self._common_inputs(1)
        if g.context is not None:
            inputs.append(TensorSpec("context_index", "int32", (1, g.context_frames), Role.CONTEXT_INDEX))
        inputs += self._past(g.layers - 1, 1)
        self.inputs = (*inputs, *self._text_inputs(1))
        self.outputs = (*self._present(), *self._context(1))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Map :attr:`inputs` to :attr:`outputs`."""
        named = self.named(tensors)
        model, rows = self.model, self.geometry.rows_per_request
        view = _FillView(self, named)
        modulation, _ = model.modulate(torch.zeros(1, device=named["latent"].device))
        positions = self.to_rows(named["positions"])
        model.run_blocks(
            self.to_rows(model.embed(named["latent"])),
            modulation[:, None],
            view,
            model.temporal_embedding(positions),
            torch.ones(rows, self.geometry.chunk_frames, device=named["latent"].device),
            self.text(named),
        )
        return (*view.present, *view.context)


class _FillView(_TimeView):
    """View of a clean chunk: cross-frame attention to each frame itself, causal over time; keeps K, V and context."""

    def __init__(self, graph: FillGraph, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors, graph.bias(tensors["slot_valid"], causal=True), graph.rotation(tensors))
        self.last = graph.geometry.layers - 1
        self.present: list[Tensor] = []
        self.context: list[Tensor] = []

    def attend_context(self, layer: int, attention: CrossFrameAttention, x: Tensor) -> Tensor:
        rows, frames = x.shape[:2]
        key, value = attention.keys_values(x)
        # Frame f of row b is line b * frames + f of the keys.
        lines = self.tensors["context_index"] + torch.arange(rows, dtype=torch.int32, device=x.device)[:, None] * frames
        for part in (key, value):
            self.context.append(attention.split_heads(nn.functional.embedding(lines, part), rows).transpose(1, 2))
        query = attention.query(x, rows=rows * frames)
        own = (attention.split_heads(part, rows * frames) for part in (key, value))
        return attention.merge_heads(attend(query, *own), x)

    def attend_time(self, layer: int, attention: TemporalAttention, z: Tensor) -> Tensor | None:
        query, key, value = attention.query_key_value(z)
        self.present += [key.transpose(1, 2), value.transpose(1, 2)]
        if layer == self.last:
            return None
        return attention.merge_heads(self.over_cache(layer, query, key, value), z)


class DenoiseGraph(_Graph):
    """Cached denoise: one denoising step of every request, including guidance and the sampler's update."""

    def __init__(self, model: CausalTransformer, geometry: Geometry) -> None:
        super().__init__(model, geometry)
        g = geometry
        requests, steps = g.requests, g.max_steps + 1
        latent = (requests, g.chunk_frames, *g.latent_shape)
        inputs = self._common_inputs(requests)
        inputs += self._past(g.layers, requests) + self._context(requests)
        inputs += self._text_inputs(requests)
        inputs += [
            TensorSpec("step", "int32", (requests,), Role.STEP),
            TensorSpec("timesteps", "float32", (requests, steps), Role.TIMESTEPS),
            TensorSpec("coefficients", "float32", (requests, steps, 8), Role.COEFFICIENTS),
        ]
        if g.stochastic:
            inputs.append(TensorSpec("noise", "float32", (requests, steps, *latent[1:]), Role.NOISE))
        if g.rows_per_request == 2:
            inputs.append(TensorSpec("guidance", "float32", (requests,), Role.GUIDANCE))
        self.inputs = (*inputs, TensorSpec("history", "float32", latent, Role.HISTORY))
        self.outputs = (
            TensorSpec("next_latent", "float32", latent, Role.NEXT_LATENT),
            TensorSpec("next_step", "int32", (requests,), Role.NEXT_STEP),
            TensorSpec("next_history", "float32", latent, Role.NEXT_HISTORY),
        )

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Map :attr:`inputs` to :attr:`outputs`."""
        named = self.named(tensors)
        requests, steps = named["timesteps"].shape
        step = named["step"].clamp(max=steps - 1)
        lines = step + torch.arange(requests, dtype=torch.int32, device=step.device) * steps

        def row(name: str) -> Tensor:
            table = named[name]
            return nn.functional.embedding(lines, table.reshape(requests * steps, -1))

        predicted = self.predict(named, row("timesteps")[:, 0])
        prediction, variance = self.guide(predicted, named)
        noise = row("noise").reshape(prediction.shape) if self.geometry.stochastic else None
        following, clean = update(row("coefficients"), named["latent"], prediction, named["history"], variance, noise)
        return following, (step + 1).clamp(max=steps - 1), clean

    def predict(self, named: dict[str, Tensor], timesteps: Tensor) -> Tensor:
        """Return the network's raw output of every row, [B, T, output channels, h, w], at ``timesteps`` [requests]."""
        model = self.model
        modulation, embedding = (self.to_rows(part)[:, None] for part in model.modulate(timesteps))
        x = model.run_blocks(
            self.to_rows(model.embed(named["latent"])),
            modulation,
            _DenoiseView(self, named),
            model.temporal_embedding(self.to_rows(named["positions"])),
            torch.zeros(self.geometry.rows, self.geometry.chunk_frames, device=named["latent"].device),
            self.text(named),
        )
        assert x is not None, "a denoising pass never ends early"
        return model.final_layer.unpatchify(model.final_layer(x, embedding))

    def guide(self, predicted: Tensor, named: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Split the output into prediction and variance value, and apply guidance (Ho & Salimans 2022, eq. 6).

        The variance value is that of the prompt row.
        """
        channels = self.geometry.latent_channels
        if self.geometry.rows_per_request == 2:
            pairs = predicted.reshape(self.geometry.requests, 2, *predicted.shape[1:])
            null, prompt = pairs[:, 0], pairs[:, 1]
            guidance = named["guidance"][:, None, None, None, None]
            prediction = null[:, :, :channels] + guidance * (prompt[:, :, :channels] - null[:, :, :channels])
            predicted = prompt
        else:
            prediction = predicted[:, :, :channels]
        return prediction, predicted[:, :, channels:] if self.geometry.learned_variance else None


def update(
    coefficients: Tensor,
    latent: Tensor,
    prediction: Tensor,
    history: Tensor,
    variance: Tensor | None,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Apply one row of a sampler's table; every supported sampler is linear in these tensors.

    Args:
        coefficients: a_x, a_m, b_x, b_0, b_h, b_z, r0, r1 of each request, [R, 8].
        latent: [R, T, c, h, w], as the following tensors.
        prediction: The guided model output.
        history: The previous step's estimate of the clean latent.
        variance: The variance value, in -1..1 where the model learned it, or None.
        noise: Standard normals, or None in a graph for deterministic samplers.

    Returns:
        The next latent and the estimate of the clean latent.
    """
    a_x, a_m, b_x, b_0, b_h, b_z, r0, r1 = (part[..., None, None, None] for part in parts(coefficients, 8))
    clean = a_x * latent + a_m * prediction
    following = b_x * latent + b_0 * clean + b_h * history
    if noise is not None:
        log_variance = r0 if variance is None else r0 + r1 * ((variance + 1.0) * 0.5)
        following = following + b_z * torch.exp(0.5 * log_variance) * noise
    return following, clean


class _DenoiseView(_TimeView):
    """View of a noisy chunk: cross-frame attention to the context frames, temporal attention to cache and chunk."""

    def __init__(self, graph: DenoiseGraph, tensors: dict[str, Tensor]) -> None:
        bias = graph.bias(tensors["slot_valid"], causal=graph.model.config.chunk_causal)
        super().__init__(tensors, bias, graph.rotation(tensors))

    def attend_context(self, layer: int, attention: CrossFrameAttention, x: Tensor) -> Tensor:
        key, value = self.tensors[f"context_k.{layer}"], self.tensors[f"context_v.{layer}"]
        return attention.merge_heads(attend_context(attention.query(x, rows=x.shape[0]), key, value), x)

    def attend_time(self, layer: int, attention: TemporalAttention, z: Tensor) -> Tensor:
        query, key, value = attention.query_key_value(z)
        return attention.merge_heads(self.over_cache(layer, query, key, value), z)
