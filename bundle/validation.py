"""What must hold between the parts of a manifest before any memory is allocated by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .decoding import InvalidDocument
from .manifest import SCHEMA, Geometry, Graph, Manifest

__all__ = ["check_manifest", "check_schema"]


def check_schema(document: Any) -> None:
    """Refuse a document of another version before anything else in it is read."""
    found = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(found, int) or isinstance(found, bool):
        raise InvalidDocument("schema", f"wanted a number, found {found!r}; this is no model.json of vdmrt")
    if found > SCHEMA:
        raise InvalidDocument("schema", f"this vdmrt reads schema {SCHEMA}, found {found}; install a newer vdmrt")
    if found < SCHEMA:
        raise InvalidDocument("schema", f"this vdmrt reads schema {SCHEMA}, found {found}; export the model again")


def check_manifest(manifest: Manifest) -> None:
    """Check that every graph is there and that cache and codec tensors are what the geometry says.

    Raises:
        InvalidDocument: Something is missing or differs.
    """
    if not manifest.graphs:
        raise InvalidDocument("graphs", "wanted at least one precision, found none")
    for precision, stages in manifest.graphs.items():
        for stage in ("fill", "denoise"):
            if stage not in stages:
                raise InvalidDocument(f"graphs.{precision}", f"wanted 'fill' and 'denoise', found {sorted(stages)}")
        _check_cache(manifest.geometry, stages, f"graphs.{precision}")
    if manifest.codec is not None:
        for stage, graph in (("encode", manifest.codec.encode), ("decode", manifest.codec.decode)):
            if [len(side.shape) for side in (*graph.inputs, *graph.outputs)] != [4, 4]:
                raise InvalidDocument(f"codec.{stage}", "wanted one input and one output of four sides each")


def _check_cache(g: Geometry, stages: Mapping[str, Graph], path: str) -> None:
    """Hold the cache tensors against the geometry: memory is allocated by the one and bound by the other."""
    dtypes: dict[str, set[str]] = {"cache": set(), "context": set()}
    for stage, rows in (("fill", g.rows_per_request), ("denoise", g.rows)):
        cells = (rows, g.tokens_per_frame * g.heads)
        wanted = {
            "past": (*cells, g.slots, g.head_size),
            "present": (*cells, g.chunk_frames, g.head_size),
            "context": (rows, g.heads, g.context_frames * g.tokens_per_frame, g.head_size),
        }
        for tensor in stages[stage].inputs + stages[stage].outputs:
            group, _, rest = tensor.name.partition("_")
            if group not in wanted or rest.partition(".")[0] not in ("k", "v"):
                continue
            dtypes["context" if group == "context" else "cache"].add(tensor.dtype)
            if tensor.shape != wanted[group]:
                raise InvalidDocument(
                    f"{path}.{stage}",
                    f"the geometry makes '{tensor.name}' {list(wanted[group])}, found {list(tensor.shape)}",
                )
    for kind, found in dtypes.items():
        if len(found) > 1 or (kind == "cache" and not found):
            raise InvalidDocument(path, f"wanted one dtype for all {kind} tensors, found {sorted(found)}")
