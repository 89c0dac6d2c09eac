"""From a model to a bundle: two graphs for each precision, one weights file, the codec and what to say about them."""

from __future__ import annotations

import importlib.metadata
import io
import logging
import os
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from ..bundle import (
    FP16,
    Artifact,
    Bundle,
    BundleWriter,
    Codec,
    Geometry,
    Graph,
    Manifest,
    Precision,
    SamplerDefaults,
    new_bundle,
    open_bundle,
)
from .codec import PreviewDecoder, PreviewEncoder
from .families.ca2vdm.config import TransformerConfig
from .families.ca2vdm.graphs import DenoiseGraph, FillGraph
from .families.ca2vdm.transformer import CausalTransformer
from .memory import build_within_memory
from .onnx_graph import Exportable, export_graphs
from .options import ExportOptions, make_geometry

__all__ = ["export_bundle", "random_model"]

_log = logging.getLogger("vdmrt")


def export_bundle(
    model: CausalTransformer,
    output: str | os.PathLike[str],
    options: ExportOptions,
    *,
    name: str,
    random_weights: bool = False,
    provenance: dict[str, str] | None = None,
    codec: tuple[Exportable, Exportable] | None = None,
    replace: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> Bundle:
    """Write a bundle of a model, whole or not at all.

    Args:
        model: Float32; where FP16 is asked for, its blocks are FP16 afterwards.
        output: The folder to make.
        options: What the graphs are made for.
        name: The model's name, for people.
        random_weights: Whether the weights were never trained.
        provenance: Where the weights came from; versions are added.
        codec: A trained encoder, pictures [1, 3, H, W] in -1..1 to latent [1, c, h, w], and decoder, latent
            [T, c, h, w] to pictures [T, 3, H, W]; None writes the preview codec.
        replace: Whether a bundle that is there may be replaced.
        progress: Called with what begins, as "tracing fill.fp32".

    Raises:
        ValueError: The options do not fit the model.
        ExportError: A graph cannot be traced, or the codec needs more memory than is available.
        BundleError: The bundle cannot be written.
    """
    geometry = make_geometry(model.config, options)
    if geometry.positions == "rope" and geometry.position_count != geometry.slots + geometry.chunk_frames:
        _log.warning(
            "RoPE has %d positions, slots + chunk frames are %d: once the cache is full, queries stand at the table's "
            "end, as in the original code, and not where their own keys stand",
            geometry.position_count,
            geometry.slots + geometry.chunk_frames,
        )
    with new_bundle(output, replace=replace) as writer:
        # fp32 comes first, because fp16 rounds the model's own weights.
        precisions = sorted(set(options.precisions))
        graphs: dict[Precision, dict[str, Graph]] = {
            precision: _export_pair(model, geometry, precision, writer, progress) for precision in precisions
        }
        exported = _export_codec(codec, geometry, writer, progress)
        manifest = Manifest(
            family="ca2vdm",
            name=name,
            prediction=options.prediction,
            geometry=geometry,
            schedule=options.schedule,
            sampler=options.sampler or _sampler_defaults(options, geometry),
            graphs=graphs,
            codec=exported,
            null_text=_write_null_text(model, writer),
            random_weights=random_weights,
            provenance={**(provenance or {}), **_versions()},
        )
        writer.finish(manifest)
    return open_bundle(output)


def random_model(config: TransformerConfig, seed: int) -> CausalTransformer:
    """Return a float32 model with seeded random weights, for benchmarks and tests.

    Raises:
        ValueError: ``seed`` is out of range.
        ExportError: The model needs more memory than is available.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"the seed of random weights must be 0 <= seed < 2**63, got {seed}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_within_memory(lambda: CausalTransformer(config), config.describe())
        return model.eval().requires_grad_(False)


def _export_pair(
    model: CausalTransformer,
    geometry: Geometry,
    precision: Precision,
    writer: BundleWriter,
    progress: Callable[[str], None],
) -> dict[str, Graph]:
    if precision == FP16:
        model.use_half_weights()
    modules = {"fill": FillGraph(model, geometry), "denoise": DenoiseGraph(model, geometry)}
    return export_graphs(modules, writer, str(precision), progress)


def _export_codec(
    codec: tuple[Exportable, Exportable] | None,
    geometry: Geometry,
    writer: BundleWriter,
    progress: Callable[[str], None],
) -> Codec | None:
    """Write the codec; without one a latent of fewer than three channels cannot carry colours."""
    shape = geometry.latent_shape
    if codec is None and geometry.latent_channels < 3:
        return None
    kind: Literal["preview", "vae"] = "preview" if codec is None else "vae"
    encoder, decoder = codec or _preview_codec(shape, geometry.chunk_frames)
    graphs = export_graphs({"vae_encode": encoder, "vae_decode": decoder}, writer, kind, progress)
    return Codec(kind, graphs["vae_encode"], graphs["vae_decode"])


def _preview_codec(shape: tuple[int, int, int], chunk_frames: int) -> tuple[Exportable, Exportable]:
    what = f"the preview codec of latents of {shape[1]}x{shape[2]}"
    encoder = build_within_memory(lambda: PreviewEncoder(shape), what)
    return encoder, build_within_memory(lambda: PreviewDecoder(shape, chunk_frames), what)


def _write_null_text(model: CausalTransformer, writer: BundleWriter) -> Artifact | None:
    if model.y_embedder is None:
        return None
    content = io.BytesIO()  # numpy's own writing to a file tells no reason when the disk is full
    np.save(content, model.y_embedder.y_embedding.numpy())
    (writer.path / "null_text.npy").write_bytes(content.getvalue())
    return writer.record("null_text.npy")


def _sampler_defaults(options: ExportOptions, geometry: Geometry) -> SamplerDefaults:
    guidance = 7.0 if geometry.rows_per_request == 2 else 1.0
    steps = min(50, options.max_steps)
    if options.prediction == "flow":
        return SamplerDefaults("flow-euler", steps, guidance)
    # The respacing of IDDPM divides by steps - 1.
    if options.stochastic and geometry.learned_variance and options.prediction == "epsilon" and steps > 1:
        return SamplerDefaults("iddpm", steps, guidance)
    return SamplerDefaults("ddim", steps, guidance)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("vdmrt", "torch", "onnx", "onnxscript")}
