"""Validation of a manifest: consistency of its parts, before memory is allocated by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .model import NEXT_STATE, Geometry, Role, Stage
from .storage.decoding import InvalidDocument

if TYPE_CHECKING:
    from .graph import Graph
    from .manifest import Manifest

__all__ = ["check_manifest"]

_FILLING = (Role.LATENT, Role.SLOT_VALID)
_DENOISING = (Role.SLOT_VALID, Role.TIMESTEPS, Role.COEFFICIENTS, *NEXT_STATE, *NEXT_STATE.values())
_PAST = (Role.PAST_KEY, Role.PAST_VALUE)
_PRESENT = (Role.PRESENT_KEY, Role.PRESENT_VALUE)


def check_manifest(manifest: Manifest) -> None:
    """Check that every graph is present and that cache and codec tensors match the geometry.

    Raises:
        InvalidDocument: A graph or tensor is missing or differs.
    """
    if not manifest.graphs:
        raise InvalidDocument("graphs", "wanted at least one precision, found none")
    for precision, stages in manifest.graphs.items():
        for stage in (Stage.FILL, Stage.DENOISE):
            if stage not in stages:
                raise InvalidDocument(f"graphs.{precision}", f"wanted 'fill' and 'denoise', found {sorted(stages)}")
        _check_roles(manifest.geometry, stages, f"graphs.{precision}")
        _check_cache(manifest.geometry, stages, f"graphs.{precision}")
    _check_codec(manifest)


def _check_roles(g: Geometry, stages: Mapping[str, Graph], path: str) -> None:
    """Check that each tensor that a lane binds by its role is present once."""
    layers = range(g.layers)
    wanted = {
        Stage.FILL: [(role, None) for role in _FILLING] + [(role, i) for role in _PRESENT for i in layers],
        Stage.DENOISE: [(role, None) for role in _DENOISING] + [(role, i) for role in _PAST for i in layers],
    }
    for stage, roles in wanted.items():
        found = Counter((spec.role, spec.layer) for spec in stages[stage].inputs + stages[stage].outputs)
        wrong = next((one for one in (*roles, *found) if found[one] != 1), None)
        if wrong is not None:
            role, layer = wrong
            of_layer = "" if layer is None else f" and layer {layer}"
            raise InvalidDocument(
                f"{path}.{stage}", f"wanted one tensor of role {str(role)!r}{of_layer}, found {found[wrong]}"
            )


def _check_codec(manifest: Manifest) -> None:
    """Check that both stages of a VAE are present, and map between 4-D pictures and latents."""
    if manifest.codec is None:
        return
    for stage in (Stage.VAE_ENCODE, Stage.VAE_DECODE):
        if stage not in manifest.components:
            raise InvalidDocument("components", f"wanted {str(stage)!r} for the codec, found none")
        sides = manifest.components[stage].with_role(Role.PICTURES, Role.LATENT)
        if sorted((spec.role, len(spec.shape)) for spec in sides) != [(Role.LATENT, 4), (Role.PICTURES, 4)]:
            raise InvalidDocument(f"components.{stage}", "wanted one input and one output of four dimensions each")


def _check_cache(g: Geometry, stages: Mapping[str, Graph], path: str) -> None:
    """Compare the cache tensors with the geometry: memory is allocated by the geometry and bound by the tensors."""
    dtypes: dict[str, set[str]] = {"cache": set(), "context": set()}
    for stage, rows in ((Stage.FILL, g.rows_per_request), (Stage.DENOISE, g.rows)):
        past, present = g.cache_shape(rows, g.slots), g.cache_shape(rows, g.chunk_frames)
        context = rows, g.heads, g.context_frames * g.tokens_per_frame, g.head_size
        wanted = {
            Role.PAST_KEY: past,
            Role.PAST_VALUE: past,
            Role.PRESENT_KEY: present,
            Role.PRESENT_VALUE: present,
            Role.CONTEXT_KEY: context,
            Role.CONTEXT_VALUE: context,
        }
        for tensor in stages[stage].with_role(*wanted):
            dtypes["context" if wanted[tensor.role] is context else "cache"].add(tensor.dtype)
            if tensor.shape != wanted[tensor.role]:
                raise InvalidDocument(
                    f"{path}.{stage}",
                    f"the geometry needs '{tensor.name}' as {list(wanted[tensor.role])}, found {list(tensor.shape)}",
                )
    for kind, found in dtypes.items():
        if len(found) > 1 or (kind == "cache" and not found):
            raise InvalidDocument(path, f"wanted one dtype for all {kind} tensors, found {sorted(found)}")
