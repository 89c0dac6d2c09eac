"""Calibration without rollouts: random normals for every input, ranges by the largest value.

Nothing is migrated or corrected; the same layers are quantized. It is the baseline for calibration over rollouts.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vdmrt.bundle import FP16, Geometry, open_bundle
from vdmrt.calibration.calibrating import CalibrationRequest, publish, quantize
from vdmrt.calibration.graph.linears import find_linears, sites_of
from vdmrt.calibration.observe.data import CalibrationSet
from vdmrt.calibration.observe.instrument import Instrument
from vdmrt.calibration.observe.observation import Observation
from vdmrt.calibration.verify.reference import reference_graphs

__all__ = ["calibrate_naively"]

_RUNS = 32


def calibrate_naively(path: Path, precisions: Sequence[str]) -> None:
    """Add precisions to a bundle, quantized by the largest values that random inputs produce."""
    bundle = open_bundle(path)
    graphs = reference_graphs(bundle)
    linears = {stage: find_linears(graph) for stage, graph in graphs.items()}
    sites, seen, drawn = sites_of(linears.values()), Observation(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for stage, graph in graphs.items():
            instrument = Instrument(graph, linears[stage], sites, Path(folder))
            shapes = {spec.name: spec.shape for spec in bundle.manifest.graphs[FP16][stage].inputs}
            for _ in range(_RUNS):
                instrument.observe(_random_inputs(shapes, bundle.manifest.geometry, drawn), seen.activations[stage])
    for precision in precisions:
        request = CalibrationRequest(path, path, precision=precision, method="max", smooth=0.0, rounding="nearest")  # type: ignore[arg-type]
        made = quantize(graphs, seen, request)
        plain = {name: dataclasses.replace(one, correction={}) for name, one in made.linears.items()}
        nothing = CalibrationSet((), (), "random")
        publish(open_bundle(path), graphs, dataclasses.replace(made, linears=plain), request, nothing, seen)


def _random_inputs(shapes: dict[str, tuple[int, ...]], g: Geometry, drawn: np.random.Generator) -> dict[str, Any]:
    """Return random normals for every input, and valid values for masks and indices."""
    inputs: dict[str, Any] = {name: drawn.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    inputs["positions"] = drawn.integers(0, g.positions.count, shapes["positions"]).astype(np.int32)
    inputs["slot_valid"] = np.ones(shapes["slot_valid"], np.float32)
    if "context_index" in shapes:
        inputs["context_index"] = np.arange(g.context_frames, dtype=np.int32)[None]
    if "step" in shapes:
        inputs["step"] = np.zeros(shapes["step"], np.int32)
        inputs["timesteps"] = np.full(shapes["timesteps"], drawn.integers(0, 1000), np.float32)
    return inputs
