"""Tensors of a graph and their roles, which are declared and never guessed from a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

__all__ = ["CACHE_ROLES", "NEXT_STATE", "Role", "TensorSpec"]


class Role(str, Enum):
    """Role of a tensor; R requests, B rows, T latent frames, K slots, N steps, P context frames, S tokens, H heads.

    Attributes:
        LATENT: Clean or noisy latent frames, [R, T, c, h, w]; [n, c, h, w] at a VAE.
        STEP: Denoising step of each request, [R].
        HISTORY: Clean latent as estimated by the previous step, shaped as ``LATENT``.
        NEXT_LATENT: ``LATENT`` of the next step.
        NEXT_STEP: ``STEP`` of the next step.
        NEXT_HISTORY: ``HISTORY`` of the next step.
        POSITIONS: Positions of the chunk's latent frames, [R, T].
        KEY_POSITIONS: Positions of the slots and of the chunk's own keys, [R, K + T].
        SLOT_VALID: 1 for a slot that attention may read, [R, K].
        PAST_KEY: The cached keys of a layer, in the cache's layout.
        PAST_VALUE: The cached values of a layer.
        PRESENT_KEY: The keys of a layer as a fill computes them, T frames in the cache's layout.
        PRESENT_VALUE: The values of a layer as a fill computes them.
        CONTEXT_KEY: The keys of a layer's context frames, [B, H, P·S, d].
        CONTEXT_VALUE: The values of a layer's context frames.
        CONTEXT_INDEX: Indices of the frames of a filled chunk that become the context, [R, P].
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


# Inputs that a denoising step passes on to the next one, and the outputs that hold them.
NEXT_STATE: Mapping[Role, Role] = {
    Role.LATENT: Role.NEXT_LATENT,
    Role.STEP: Role.NEXT_STEP,
    Role.HISTORY: Role.NEXT_HISTORY,
}
# The KV cache, read and written; keys first, as in memory.
CACHE_ROLES = (Role.PAST_KEY, Role.PAST_VALUE, Role.PRESENT_KEY, Role.PRESENT_VALUE)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: As in the graph.
        dtype: "float32", "float16", "int32", or "int8" or "float8_e4m3fn" for a quantized cache.
        shape: Static.
        role: Its role.
        layer: The transformer block of a key or value; None for other tensors.
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
        """The numpy dtype that stores it: numpy lacks FP8, which is stored as "uint8"."""
        return "uint8" if self.dtype == "float8_e4m3fn" else self.dtype
