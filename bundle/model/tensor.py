"""Tensors of a graph, with their roles: what is read from a role is never guessed from a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

__all__ = ["CACHE_ROLES", "NEXT_STATE", "Role", "TensorSpec"]


class Role(str, Enum):
    """What a tensor of a graph means; R requests, B rows, T latent frames, K slots, N steps, P context frames.

    Attributes:
        LATENT: Clean or noisy latent frames, [R, T, c, h, w]; [n, c, h, w] at a VAE.
        STEP: Denoising step of each request, [R].
        HISTORY: Clean latent as estimated by the step before, as ``LATENT``.
        NEXT_LATENT: ``LATENT`` of the next step.
        NEXT_STEP: ``STEP`` of the next step.
        NEXT_HISTORY: ``HISTORY`` of the next step.
        POSITIONS: Positions of the chunk's latent frames, [R, T].
        KEY_POSITIONS: Positions of the slots and of the chunk's own keys, [R, K + T].
        SLOT_VALID: 1 for a slot that may be seen, [R, K].
        PAST_KEY: The cached keys of a layer, in the cache's layout.
        PAST_VALUE: The cached values of a layer.
        PRESENT_KEY: The keys of a layer as a fill computes them, T frames in the cache's layout.
        PRESENT_VALUE: The values of a layer as a fill computes them.
        CONTEXT_KEY: The keys of a layer's context frames, [B, H, P·S, d].
        CONTEXT_VALUE: The values of a layer's context frames.
        CONTEXT_INDEX: Which frames of a filled chunk become the context, [R, P].
        TEXT: Text embeddings, [B, tokens, width].
        TEXT_MASK: 1 for a token that counts, [B, tokens].
        TEXT_KEY: The text's keys of a layer, [B, H, tokens, d].
        TEXT_VALUE: The text's values of a layer.
        TIMESTEPS: Timestep of each denoising step, [R, N].
        COEFFICIENTS: The sampler's table, [R, N, 8].
        NOISE: Standard normals of each denoising step, [R, N, T, c, h, w].
        GUIDANCE: Guidance scale, [R].
        PICTURES: Pictures in -1..1, [n, 3, height, width].
    """

    LATENT = "latent"
    STEP = "step"
    HISTORY = "history"
    NEXT_LATENT = "next_latent"
    NEXT_STEP = "next_step"
    NEXT_HISTORY = "next_history"
    POSITIONS = "positions"
    KEY_POSITIONS = "key_positions"
    SLOT_VALID = "slot_valid"
    PAST_KEY = "past_key"
    PAST_VALUE = "past_value"
    PRESENT_KEY = "present_key"
    PRESENT_VALUE = "present_value"
    CONTEXT_KEY = "context_key"
    CONTEXT_VALUE = "context_value"
    CONTEXT_INDEX = "context_index"
    TEXT = "text"
    TEXT_MASK = "text_mask"
    TEXT_KEY = "text_key"
    TEXT_VALUE = "text_value"
    TIMESTEPS = "timesteps"
    COEFFICIENTS = "coefficients"
    NOISE = "noise"
    GUIDANCE = "guidance"
    PICTURES = "pictures"

    __str__ = str.__str__


# What a denoising step hands on to the next one, and the outputs that carry it.
NEXT_STATE: Mapping[Role, Role] = {
    Role.LATENT: Role.NEXT_LATENT,
    Role.STEP: Role.NEXT_STEP,
    Role.HISTORY: Role.NEXT_HISTORY,
}
# The KV cache, read and written; "key" first, as in memory.
CACHE_ROLES = (Role.PAST_KEY, Role.PAST_VALUE, Role.PRESENT_KEY, Role.PRESENT_VALUE)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: As in the graph.
        dtype: "float32", "float16", "int32", or "int8" or "float8_e4m3fn" for a quantized cache.
        shape: Static.
        role: What it means.
        layer: The transformer block that a key or value belongs to; None for what belongs to none.
    """

    name: str
    dtype: Literal["float32", "float16", "int32", "int8", "float8_e4m3fn"]
    shape: tuple[int, ...]
    role: Role
    layer: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        count = {"int8": 1, "float8_e4m3fn": 1, "float16": 2}.get(self.dtype, 4)
        for side in self.shape:
            count *= side
        return count

    @property
    def storage(self) -> str:
        """The type of numpy that holds its bytes: numpy has no FP8, whose bytes are "uint8"."""
        return "uint8" if self.dtype == "float8_e4m3fn" else self.dtype
