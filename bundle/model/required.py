"""The tensors that a graph must have, and the shapes of all of its tensors, as they follow from the geometry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .geometry import Geometry
from .stage import Stage
from .tensor import NEXT_STATE, Role

__all__ = ["required_tensors", "tensor_shapes"]

_PAST = (Role.PAST_KEY, Role.PAST_VALUE)
_PRESENT = (Role.PRESENT_KEY, Role.PRESENT_VALUE)
_CONTEXT = (Role.CONTEXT_KEY, Role.CONTEXT_VALUE)


def required_tensors(g: Geometry, stage: Stage) -> Iterator[tuple[Role, int | None]]:
    """Yield the role and the layer of every tensor that the runtime needs of "fill" or "denoise"."""
    roles = [Role.LATENT, Role.SLOT_VALID]
    layered = [*(_PRESENT if stage is Stage.FILL else _PAST), *(_CONTEXT if g.context else ())]
    if g.positions.kind != "none":
        roles.append(Role.POSITIONS)
    if g.positions.kind == "rope":
        roles.append(Role.KEY_POSITIONS)
    if g.text_width:
        roles += [Role.TEXT, Role.TEXT_MASK]
    roles += _filling(g) if stage is Stage.FILL else _denoising(g)
    yield from ((role, None) for role in roles)
    yield from ((role, layer) for role in layered for layer in range(g.layers))


def tensor_shapes(g: Geometry, stage: Stage) -> Mapping[Role, tuple[int, ...]]:
    """Return the shape of each role in "fill", which runs for one request, or "denoise"; the cache's come first."""
    requests = 1 if stage is Stage.FILL else g.requests
    rows, frames, steps = requests * g.rows_per_request, g.chunk_frames, g.max_steps + 1
    latent = requests, frames, *g.latent_shape
    return {
        **dict.fromkeys(_PAST, g.cache_shape(rows, g.slots)),
        **dict.fromkeys(_PRESENT, g.cache_shape(rows, frames)),
        **dict.fromkeys(_CONTEXT, (rows, g.heads, g.context_frames * g.tokens_per_frame, g.head_size)),
        **dict.fromkeys((Role.LATENT, Role.HISTORY, Role.NEXT_LATENT, Role.NEXT_HISTORY), latent),
        **dict.fromkeys((Role.STEP, Role.NEXT_STEP, Role.GUIDANCE), (requests,)),
        Role.SLOT_VALID: (requests, g.slots),
        Role.POSITIONS: (requests, frames),
        Role.KEY_POSITIONS: (requests, g.slots + frames),
        Role.CONTEXT_INDEX: (requests, g.context_frames),
        Role.TEXT: (rows, g.text_tokens, g.text_width),
        Role.TEXT_MASK: (rows, g.text_tokens),
        Role.TIMESTEPS: (requests, steps),
        Role.COEFFICIENTS: (requests, steps, 8),
        Role.NOISE: (requests, steps, *latent[1:]),
    }


def _filling(g: Geometry) -> list[Role]:
    return [Role.CONTEXT_INDEX] if g.context else []


def _denoising(g: Geometry) -> list[Role]:
    state = [role for role in (*NEXT_STATE, *NEXT_STATE.values()) if role is not Role.LATENT]
    noise = [Role.NOISE] if g.stochastic else []
    guidance = [Role.GUIDANCE] if g.rows_per_request == 2 else []
    return [Role.TIMESTEPS, Role.COEFFICIENTS, *state, *noise, *guidance]
