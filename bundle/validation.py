"""Validation of a manifest: consistency of its parts, before memory is allocated by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .model import CACHE_ROLES, Geometry, Role, Stage
from .model.required import required_tensors, tensor_shapes
from .storage.decoding import InvalidDocument

if TYPE_CHECKING:
    from .graph import Graph
    from .manifest import Manifest

__all__ = ["check_manifest"]

_STAGES = (Stage.FILL, Stage.DENOISE)


def check_manifest(manifest: Manifest) -> None:
    """Check that every graph is present and has the tensors, in the shapes, that follow from the geometry.

    Raises:
        InvalidDocument: A graph or tensor is missing or differs.
    """
    if not manifest.graphs:
        raise InvalidDocument("graphs", "wanted at least one precision, found none")
    for precision, stages in manifest.graphs.items():
        for stage in _STAGES:
            if stage not in stages:
                raise InvalidDocument(f"graphs.{precision}", f"wanted 'fill' and 'denoise', found {sorted(stages)}")
        for stage in _STAGES:
            _check_roles(manifest.geometry, stage, stages[stage], f"graphs.{precision}.{stage}")
            _check_shapes(manifest.geometry, stage, stages[stage], f"graphs.{precision}.{stage}")
        _check_dtypes(stages, f"graphs.{precision}")
    _check_codec(manifest)


def _check_roles(g: Geometry, stage: Stage, graph: Graph, path: str) -> None:
    """Check that each tensor that the geometry requires is present, and none twice."""
    found = Counter((spec.role, spec.layer) for spec in graph.inputs + graph.outputs)
    wrong = next((one for one in (*required_tensors(g, stage), *found) if found[one] != 1), None)
    if wrong is not None:
        role, layer = wrong
        of_layer = "" if layer is None else f" and layer {layer}"
        raise InvalidDocument(path, f"wanted one tensor of role {str(role)!r}{of_layer}, found {found[wrong]}")


def _check_shapes(g: Geometry, stage: Stage, graph: Graph, path: str) -> None:
    """Compare shapes with the geometry: memory is allocated by the geometry and bound by the tensors."""
    wanted = tensor_shapes(g, stage)
    for tensor in sorted(graph.with_role(*wanted), key=lambda spec: [*wanted].index(spec.role)):
        if tensor.shape != wanted[tensor.role]:
            raise InvalidDocument(
                path, f"the geometry needs '{tensor.name}' as {list(wanted[tensor.role])}, found {list(tensor.shape)}"
            )


def _check_dtypes(stages: Mapping[str, Graph], path: str) -> None:
    """Check that the cache has one dtype in both graphs, and the cross-frame context one."""
    for kind, roles in (("cache", CACHE_ROLES), ("context", (Role.CONTEXT_KEY, Role.CONTEXT_VALUE))):
        found = {tensor.dtype for stage in _STAGES for tensor in stages[stage].with_role(*roles)}
        if len(found) > 1:
            raise InvalidDocument(path, f"wanted one dtype for all {kind} tensors, found {sorted(found)}")


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
