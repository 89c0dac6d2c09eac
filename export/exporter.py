"""The exporter: writes a model's graphs of each precision, their weights file, the codec and the manifest."""

from __future__ import annotations

import importlib.metadata
import io
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ..bundle import (
    Manifest,
    SamplerDefaults,
    Stage,
    new_bundle,
    open_bundle,
)
from .codec import PreviewDecoder, PreviewEncoder
from .families import find_family
from .memory import build_within_memory
from .onnx_graph import export_graphs
from .options import make_geometry

if TYPE_CHECKING:
    from ..bundle import (
        Artifact,
        Bundle,
        BundleWriter,
        Geometry,
        Graph,
        Precision,
    )
    from .families.family import Architecture
    from .onnx_graph import Exportable
    from .options import ExportOptions

__all__ = ["export_bundle", "random_model"]

_log = logging.getLogger("vdmrt")


def export_bundle(
    model: Any,
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
    """Write a bundle of a model, atomically.

    Args:
        model: A family's torch module, float32; an FP16 export converts its blocks to FP16 in place.
        output: The folder to create.
        options: Options of the export.
        name: The model's name, for people.
        random_weights: Whether the weights are untrained.
        provenance: Origin of the weights; versions are added.
        codec: A trained encoder, pictures [1, 3, H, W] in -1..1 to latent [1, c, h, w], and decoder, latent
            [T, c, h, w] to pictures [T, 3, H, W]; None writes the preview codec.
        replace: Whether an existing bundle may be replaced.
        progress: Called with the name of each stage before it begins, as "tracing fill.fp32".

    Raises:
        ValueError: The options do not fit the model.
        ExportError: A graph cannot be traced, or the codec needs more memory than is available.
        BundleError: The bundle cannot be written.
    """
    geometry = make_geometry(model.config, options)
    family = find_family(model.config.family)
    caution = family.caution(geometry)
    if caution is not None:
        _log.warning("%s", caution)
    with new_bundle(output, replace=replace) as writer:
        # fp32 first, because fp16 rounds the model's weights in place.
        precisions = sorted(set(options.precisions))
        graphs: dict[Precision, Mapping[str, Graph]] = {}
        for precision in precisions:
            made = family.make_graphs(model, geometry, precision)
            written = export_graphs(made, writer, str(precision), progress)
            graphs[precision] = {stage: graph for stage, graph in written.items()}
        modules, kind = _codec_modules(codec, geometry)
        manifest = Manifest(
            family=family.name,
            name=name,
            prediction=options.prediction,
            geometry=geometry,
            parameters=family.parameters(model.config),
            schedule=options.schedule,
            sampler=options.sampler or _sampler_defaults(options, geometry),
            graphs=graphs,
            components=export_graphs(modules, writer, kind, progress) if kind else {},
            codec=kind,
            null_text=_write_null_text(family.null_text(model), writer),
            random_weights=random_weights,
            provenance={**(provenance or {}), **_versions()},
        )
        writer.finish(manifest)
    return open_bundle(output)


def random_model(config: Architecture, seed: int) -> Any:
    """Return a float32 model with seeded random weights, for benchmarks and tests.

    Raises:
        ValueError: ``seed`` is out of range.
        ExportError: The model needs more memory than is available.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"the seed of random weights must be 0 <= seed < 2**63, got {seed}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        family = find_family(config.family)
        model = build_within_memory(lambda: family.build(config), config.describe())
        return model.eval().requires_grad_(False)


def _codec_modules(
    codec: tuple[Exportable, Exportable] | None, geometry: Geometry
) -> tuple[Mapping[Stage, Exportable], Literal["preview", "vae"] | None]:
    """Return the VAE's stages and their kind; a latent of fewer than three channels cannot carry colors."""
    if codec is None and geometry.latent_channels < 3:
        return {}, None
    encoder, decoder = codec or _preview_codec(geometry.latent_shape, geometry.chunk_frames)
    return {Stage.VAE_ENCODE: encoder, Stage.VAE_DECODE: decoder}, "preview" if codec is None else "vae"


def _preview_codec(shape: tuple[int, int, int], chunk_frames: int) -> tuple[Exportable, Exportable]:
    what = f"the preview codec of latents of {shape[1]}x{shape[2]}"
    encoder = build_within_memory(lambda: PreviewEncoder(shape), what)
    return encoder, build_within_memory(lambda: PreviewDecoder(shape, chunk_frames), what)


def _write_null_text(null_text: torch.Tensor | None, writer: BundleWriter) -> Artifact | None:
    if null_text is None:
        return None
    content = io.BytesIO()  # numpy's writing to a file hides the reason when the disk is full
    np.save(content, null_text.numpy())
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
