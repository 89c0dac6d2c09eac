"""Quantized graphs with scales from nowhere, for tests of what compilers make of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from vdmrt.bundle import FP8, FP16, INT8, Artifact, Bundle, EightBits, Precision, sha256_of
from vdmrt.calibration.graph.cache_scales import CacheScales, cache_name
from vdmrt.calibration.graph.formats import FORMATS, fp16_scale
from vdmrt.calibration.graph.graph_file import GraphFile, WeightsFile, load_graph, save_graph
from vdmrt.calibration.graph.linears import choose_linears, find_linears, sites_of
from vdmrt.calibration.graph.quantization import LinearScales, Quantization, SiteScales
from vdmrt.calibration.graph.rendering import render
from vdmrt.calibration.graph.rounding import round_nearest

__all__ = ["quantize_stage"]

_STEP = 0.05


def quantize_stage(bundle: Bundle, stage: str, name: str, folder: Path) -> Bundle:
    """Return a bundle in ``folder`` that has one graph: a stage's FP16 graph, quantized.

    Args:
        bundle: Bundle with FP16 graphs.
        stage: "fill" or "denoise".
        name: A precision with 8 bit linears around FP16, such as "int8-fp16" or "fp8-kvf8".
        folder: Folder to write to.
    """
    precision = Precision.parse(name)
    kind: EightBits = FP8 if precision.linears == FP8 else INT8
    described = bundle.manifest.graphs[FP16][stage]
    graph = load_graph(bundle, described)
    quantization = _quantization(graph, stage, kind)
    dtypes: dict[str, Any] = {}
    if precision.cache is not None:
        channels = bundle.manifest.geometry.heads * bundle.manifest.geometry.head_size
        names = sorted(filter(None, map(cache_name, graph.specs)))
        scales = CacheScales(_STEP, (0.0,) * channels, precision.cache)
        quantization = dataclasses.replace(quantization, cache=dict.fromkeys(names, scales))
        dtypes = {spec.name: scales.kind.dtype for spec in graph.specs if cache_name(spec)}
    path = folder / f"{stage}.onnx"
    save_graph(render(graph, stage, quantization), path, WeightsFile(path.with_suffix(".bin")))
    inputs, outputs = (
        tuple(dataclasses.replace(spec, dtype=dtypes.get(spec.name, spec.dtype)) for spec in specs)
        for specs in (described.inputs, described.outputs)
    )
    file = Artifact(path.name, sha256_of(path), path.stat().st_size)
    made = dataclasses.replace(described, file=file, inputs=inputs, outputs=outputs, quantized=kind)
    return Bundle(folder, dataclasses.replace(bundle.manifest, graphs={precision: {stage: made}}, components={}))


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
