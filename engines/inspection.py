"""Inspection of a bundle, its cost and its engines, from ``model.json`` and the engines' manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..bundle import Stage, encode, list_engines, read_measured

if TYPE_CHECKING:
    from ..bundle import Bundle, Graph, Precision

__all__ = ["cache_nbytes", "inspect_bundle", "scatter_nbytes", "weights_nbytes"]


def inspect_bundle(bundle: Bundle) -> dict[str, Any]:
    """Return the manifest with derived figures, ready for JSON.

    Adds, for each precision, the cache's bytes, the bytes one autoregressive step writes to it, the bytes of weights,
    and the FLOPs of an autoregressive step at the default number of denoising steps; and the engines' manifests.

    Raises:
        EngineError: An engine's manifest is damaged.
    """
    document: dict[str, Any] = encode(bundle.manifest)
    steps = bundle.manifest.sampler.steps
    document["path"] = str(bundle.path)
    document["derived"] = {
        str(precision): {
            "cache_nbytes": cache_nbytes(bundle, precision),
            "scatter_nbytes": scatter_nbytes(bundle, precision),
            "weights_nbytes": weights_nbytes(graphs[Stage.DENOISE]),
            "flops_per_chunk": graphs[Stage.FILL].flops + steps * graphs[Stage.DENOISE].flops,
            "cache_copies_nbytes_per_step": sum(copy.nbytes for copy in graphs[Stage.DENOISE].cache_copies),
        }
        for precision, graphs in bundle.manifest.graphs.items()
    }
    measured = read_measured(bundle)
    document |= {"accuracy": encode(measured.accuracy), "speeds": encode(measured.speeds)}
    document["engines"] = [{"path": str(engine.path), **encode(engine.manifest)} for engine in list_engines(bundle)]
    return document


def cache_nbytes(bundle: Bundle, precision: Precision) -> int:
    """Return the size in bytes of the KV cache of one lane: 2·L·K·B·S·C elements."""
    return bundle.manifest.geometry.cache_elements * _element_nbytes(bundle, precision)


def scatter_nbytes(bundle: Bundle, precision: Precision) -> int:
    """Return the bytes that an autoregressive step writes to the KV cache of one lane."""
    g = bundle.manifest.geometry
    return g.cache_elements // g.slots * g.chunk_frames * _element_nbytes(bundle, precision)


def weights_nbytes(graph: Graph) -> int:
    """Return the size of a graph's weights file in bytes."""
    return graph.weights.nbytes if graph.weights else 0


def _element_nbytes(bundle: Bundle, precision: Precision) -> int:
    """Return the size of one element of the cache in bytes."""
    return bundle.manifest.graphs[precision][Stage.FILL].cache_element_nbytes
