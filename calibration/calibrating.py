"""The calibration behind ``vdmrt calibrate``: from a bundle and clips to further precisions in the same bundle."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import FP32, INT8, Stage, check_amendable, open_bundle
from ..errors import CalibrationError
from ..hosts import need_packages
from ..runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from ..runtime.sampling.session_arguments import session_arguments
from ..runtime.session.model import Model
from .adding import added_nbytes, publish
from .choose.sensitivity import fit_budget
from .graph.cache_scales import (
    choose_cache_scales,
    fold_cache,
    fold_statistics,
)
from .graph.formats import FORMATS
from .graph.linears import choose_linears, find_linears, sites_of
from .graph.quantization import Quantization, make_quantization
from .observe.data import read_set
from .observe.observation import observe_rollouts
from .progress import hide_progress
from .request import CACHE_ALONE, CalibrationRequest
from .scratch import scratch_folder
from .summary import CalibrationSummary
from .verify.reference import reference_bundle, reference_graphs

if TYPE_CHECKING:
    from ..bundle import Bundle
    from .choose.sensitivity import Sensitivity
    from .choose.speed import Judge
    from .graph.cache_scales import (
        CacheScales,
    )
    from .graph.graph_file import GraphFile
    from .observe.data import CalibrationSet
    from .observe.observation import Observation
    from .progress import Show

__all__ = ["CalibrationRequest", "CalibrationSummary", "calibrate", "publish", "quantize"]

_log = logging.getLogger("vdmrt")


def calibrate(
    request: CalibrationRequest, *, judge: Judge | None = None, show: Show = hide_progress
) -> CalibrationSummary:
    """Observe, choose every scale, and add the quantized graphs to the bundle.

    The statistics are kept in the bundle's ``calibration/`` until the graphs are added, so that an interrupted run
    resumes after its last whole rollout.

    Args:
        request: The options.
        judge: Times the new graphs before they are added, and may refuse them; None adds them untimed.
        show: Shows the progress of each phase.

    Raises:
        CalibrationError: The data or an option does not fit the model, or temporary files cannot be written.
        NotFasterError: The judge refuses the graphs; the bundle is unchanged.
        BundleError: The bundle is altered or cannot be written.
        MediaError: A file of the data cannot be read.
    """
    need_packages("calibrate", "vdmrt calibrate", "onnx", "onnxruntime", fail=CalibrationError)
    bundle = open_bundle(request.bundle)
    check_amendable(bundle)
    bundle.verify()
    graphs = reference_graphs(bundle)
    choose_linears([linear for graph in graphs.values() for linear in find_linears(graph)], request.keep)
    check_amendable(bundle, added_nbytes(bundle, graphs, request))
    with scratch_folder("calibrate") as folder:
        reference = reference_bundle(bundle, folder)
        with Model(reference, OnnxRuntimeBackend(threads=request.threads), FP32) as model:
            data = read_set(request.data, model)
        _log.info("calibration set: %s", data.describe())
        for lack in data.shortcomings(bundle.manifest.geometry):
            _log.warning("%s", lack)
        seen = _observe(reference, graphs, data, request, bundle.path / "calibration", show)
        with show("rounding, linears") as on_progress:
            quantization = quantize(graphs, seen, request, on_progress=on_progress)
        found = None
        if request.budget is not None:
            found = _fit_budget(reference, graphs, quantization, data, request, show)
            quantization = quantization.keeping(found.kept)
        return publish(bundle, graphs, quantization, request, data, seen, found, judge=judge, show=show)


def _observe(
    reference: Bundle,
    graphs: Mapping[str, GraphFile],
    data: CalibrationSet,
    request: CalibrationRequest,
    kept: Path,
    show: Show,
) -> Observation:
    with show("observing, denoising steps") as on_progress:
        return observe_rollouts(
            reference,
            graphs,
            data,
            samples=request.samples,
            seed=request.seed,
            threads=request.threads,
            options=session_arguments(request),
            resume=request.observations or kept,
            on_progress=on_progress,
        )


def _fit_budget(
    reference: Bundle,
    graphs: Mapping[str, GraphFile],
    quantization: Quantization,
    data: CalibrationSet,
    request: CalibrationRequest,
    show: Show,
) -> Sensitivity:
    assert request.budget is not None
    with show("searching the budget, variants") as on_progress:
        return fit_budget(
            reference,
            graphs,
            quantization,
            data,
            request.budget,
            options=session_arguments(request),
            threads=request.threads,
            on_progress=on_progress,
        )


def quantize(
    graphs: Mapping[str, GraphFile],
    seen: Observation,
    request: CalibrationRequest,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Quantization:
    """Choose every scale for float32 graphs.

    Raises:
        CalibrationError: A pattern matches nothing, or nothing is left to quantize.
    """
    cache: dict[str, CacheScales] = {}
    activations: Mapping[str, Mapping[str, Any]] = seen.activations
    folded = {stage: graph.copy() for stage, graph in graphs.items()}
    if request.kv is not None:
        projections = graphs[Stage.FILL].parameters.projections
        cache = choose_cache_scales(seen.cache, FORMATS[request.kv], projections)
        activations = fold_statistics(seen.activations, cache, projections)
        for graph in folded.values():
            fold_cache(graph, cache)
    if request.precision == CACHE_ALONE:
        return Quantization(INT8, request.method, {}, {}, cache)
    linears = {stage: find_linears(graph) for stage, graph in folded.items()}
    everything = [linear for found in linears.values() for linear in found]
    names = {linear.name for linear in choose_linears(everything, request.keep)}
    made = make_quantization(
        activations,
        {stage: [one for one in found if one.name in names] for stage, found in linears.items()},
        sites_of(linears.values()),
        {one.name: folded[stage].weights[one.weight] for stage, found in linears.items() for one in found},
        kind=FORMATS[request.precision],
        method=request.method,
        smooth=request.smooth,
        rounding=request.rounding,
        on_progress=on_progress,
    )
    return dataclasses.replace(made, cache=cache)
