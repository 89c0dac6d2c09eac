"""Quantized graphs with scales from nowhere, for tests of what compilers make of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from vdmrt.bundle import FP16, Bundle, EightBits, Graph
from vdmrt.calibration.graph.cache_scales import CacheScales, cache_name
from vdmrt.calibration.graph.formats import FORMATS, fp16_scale
from vdmrt.calibration.graph.graph_file import GraphFile, WeightsFile, load_graph, save_graph
from vdmrt.calibration.graph.linears import choose_linears, find_linears, sites_of
from vdmrt.calibration.graph.quantization import LinearScales, Quantization, SiteScales
from vdmrt.calibration.graph.rendering import render
from vdmrt.calibration.graph.rounding import round_nearest

__all__ = ["quantize_stage"]

_STEP = 0.05


def quantize_stage(bundle: Bundle, stage: str, kind: EightBits, path: Path, *, cache: EightBits | None = None) -> Graph:
    """Write a stage's FP16 graph quantized, and return its description, whose file is the FP16 graph's.

    Args:
        bundle: Bundle with FP16 graphs.
        stage: "fill" or "denoise".
        kind: Type of the linears.
        path: File to write; its weights are written beside it.
        cache: Type of the cache; None leaves it in FP16.
    """
    described = bundle.manifest.graphs[FP16][stage]
    graph = load_graph(bundle, described)
    quantization = _quantization(graph, stage, kind)
    if cache is not None:
        channels = bundle.manifest.geometry.heads * bundle.manifest.geometry.head_size
        names = sorted(filter(None, map(cache_name, graph.specs)))
        scales = CacheScales(_STEP, (0.0,) * channels, cache)
        quantization = dataclasses.replace(quantization, cache=dict.fromkeys(names, scales))
    save_graph(render(graph, stage, quantization), path, WeightsFile(path.with_suffix(".bin")))
    if cache is None:
        return dataclasses.replace(described, quantized=kind)
    dtype: Any = FORMATS[cache].dtype
    inputs, outputs = (
        tuple(dataclasses.replace(spec, dtype=dtype) if cache_name(spec) else spec for spec in specs)
        for specs in (described.inputs, described.outputs)
    )
    return dataclasses.replace(described, inputs=inputs, outputs=outputs, quantized=kind)


def _quantization(graph: GraphFile, stage: str, kind: EightBits) -> Quantization:
    linears = choose_linears(find_linears(graph), ())
    sites = sites_of([linears])
    weights = {one.name: np.asarray(graph.weights[one.weight], np.float32) for one in linears}
    rows = {name: fp16_scale(np.abs(weight).max(1), FORMATS[kind].largest) for name, weight in weights.items()}
    return Quantization(
        kind,
        "max",
        {site: SiteScales({stage: _STEP}, None) for site in sites.values()},
        {name: LinearScales(sites[name], tuple(map(float, rows[name]))) for name in weights},
        codes={name: round_nearest(weight, rows[name], FORMATS[kind]) for name, weight in weights.items()},
    )
