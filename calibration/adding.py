"""Adding quantized graphs to a bundle: they are written beside it, timed on request and added atomically."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..bundle import (
    FP8,
    FP16,
    FP32,
    Bundle,
    Calibration,
    Stage,
    amended_bundle,
    record_measured,
)
from .graph.graph_file import WeightsFile, load_graph
from .graph.linears import find_linears
from .graph.rendering import render
from .observe.planning import planned_nbytes
from .progress import hide_progress
from .publishing import with_weights, write_precision
from .request import CACHE_ALONE
from .summary import CalibrationSummary
from .verify.reference import source_precision

if TYPE_CHECKING:
    from ..bundle import (
        BundleWriter,
        Graph,
        Precision,
    )
    from .choose.sensitivity import Sensitivity
    from .choose.speed import Judge
    from .graph.graph_file import GraphFile
    from .graph.linears import Linear
    from .graph.quantization import Quantization
    from .observe.data import CalibrationSet
    from .observe.observation import Observation
    from .progress import Show
    from .request import CalibrationRequest

__all__ = ["added_nbytes", "publish"]

# Options that do not affect the graphs.
_NOT_RECORDED = ("bundle", "data", "text", "threads", "observations")
_STAGES = (Stage.FILL, Stage.DENOISE)


def publish(
    bundle: Bundle,
    graphs: Mapping[str, GraphFile],
    quantization: Quantization,
    request: CalibrationRequest,
    data: CalibrationSet,
    seen: Observation,
    sensitivity: Sensitivity | None = None,
    *,
    judge: Judge | None = None,
    show: Show = hide_progress,
) -> CalibrationSummary:
    """Write every rendering of a quantization into the bundle, with its report.

    Args:
        bundle: Bundle that receives the graphs, all or none.
        graphs: Float32 graphs by stage.
        quantization: Every scale.
        request: The calibration's options.
        data: The calibration set.
        seen: Observed statistics.
        sensitivity: Result of the search for a budget.
        judge: Times the new graphs before they are added, and may refuse them.
        show: Shows the progress.

    Raises:
        NotFasterError: The judge refuses the graphs.
        BundleError: The bundle cannot be written.
    """
    renderings = _renderings(bundle, graphs, request)
    summary = _summarize(bundle, graphs, quantization, tuple(renderings), data, seen, sensitivity)
    with amended_bundle(bundle, without=_replaced(bundle, request, renderings)) as writer:
        written = _write_graphs(writer, renderings, graphs, quantization, request, show)
        old = bundle.manifest
        made = _write_records(
            writer, quantization, summary, request, data, sensitivity, tuple(written), old.parameters.floating
        )
        manifest = dataclasses.replace(
            old,
            graphs={**old.graphs, **written},
            calibrations=(*(one for one in old.calibrations if one.precision not in written), *made),
        )
        writer.finish(manifest)
        if judge is not None:
            made_bundle = Bundle(writer.path, manifest)
            summary = dataclasses.replace(summary, speeds=judge.measure(made_bundle, tuple(written), bundle.path))
            record_measured(made_bundle, speeds=summary.speeds)
    return summary


def _replaced(bundle: Bundle, request: CalibrationRequest, labels: Iterable[Precision]) -> set[str]:
    """Return the files to replace or remove: older graphs of these precisions, and the statistics kept for resuming."""
    return {
        *(f"graphs/{stage}.{label}.onnx" for label in labels for stage in _STAGES),
        f"graphs/weights.{request.stem}.bin",
        *(f"calibration/{request.stem}/{name}" for name in ("scales.json", "report.json", "budget.svg")),
        *(f"calibration/{file.name}" for file in (bundle.path / "calibration").glob("observation-*.npz")),
    }


def _write_graphs(
    writer: BundleWriter,
    renderings: Mapping[Precision, Mapping[str, tuple[Graph, GraphFile]]],
    graphs: Mapping[str, GraphFile],
    quantization: Quantization,
    request: CalibrationRequest,
    show: Show,
) -> dict[Precision, dict[str, Graph]]:
    by_stage = dict.fromkeys(graphs, quantization)
    if request.keep_fill:
        by_stage[Stage.FILL] = dataclasses.replace(quantization, linears={})
    quantized: Any = None if request.precision == CACHE_ALONE else request.precision
    weights = WeightsFile(writer.path / "graphs" / f"weights.{request.stem}.bin")
    written = {}
    with show("writing, precisions") as on_progress:
        for done, (label, sources) in enumerate(renderings.items(), 1):
            made = {
                stage: render(opened, stage, by_stage[stage], graphs[stage]) for stage, (_, opened) in sources.items()
            }
            written[label] = write_precision(writer, str(label), made, sources, weights, quantized)
            on_progress(done, len(renderings))
    record = writer.record(f"graphs/{weights.path.name}")
    return {label: with_weights(new, record) for label, new in written.items()}


def _write_records(
    writer: BundleWriter,
    quantization: Quantization,
    summary: CalibrationSummary,
    request: CalibrationRequest,
    data: CalibrationSet,
    sensitivity: Sensitivity | None,
    labels: Sequence[Precision],
    patterns: Sequence[str],
) -> Iterator[Calibration]:
    """Write the scales, the report and the budget's chart; yield the manifest's entry for each precision."""
    stem = f"calibration/{request.stem}"
    texts = {
        "scales.json": quantization.to_json(),
        "report.json": json.dumps(_report(summary, request, sensitivity, patterns), indent=1) + "\n",
    }
    if sensitivity is not None:
        texts["budget.svg"] = sensitivity.to_svg()
    (writer.path / stem).mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (writer.path / stem / name).write_text(text, encoding="utf-8")
    scales, report, *picture = (writer.record(f"{stem}/{name}") for name in texts)
    for label in labels:
        yield Calibration(label, scales, report, summary.data, data.sha256, picture[0] if picture else None)


def added_nbytes(bundle: Bundle, graphs: Mapping[str, GraphFile], request: CalibrationRequest) -> int:
    """Return an estimate of the bytes added: the new weights, and the statistics kept during the run."""
    linears = _linears(graphs) if request.precision != CACHE_ALONE else []
    codes = {linear.weight: linear.inputs * linear.outputs for linear in linears}
    others = 0
    for sources in _renderings(bundle, graphs, request).values():
        distinct = {name: data for _, opened in sources.values() for name, data in opened.weights.items()}
        others += sum(data.nbytes for name, data in distinct.items() if name not in codes)
    return sum(codes.values()) + others + planned_nbytes(graphs)


def _linears(graphs: Mapping[str, GraphFile]) -> list[Linear]:
    return [linear for graph in graphs.values() for linear in find_linears(graph)]


def _renderings(
    bundle: Bundle, graphs: Mapping[str, GraphFile], request: CalibrationRequest
) -> dict[Precision, dict[str, tuple[Graph, GraphFile]]]:
    """Return the source graphs of each new precision: by label, by stage, as in model.json and opened."""
    known = bundle.manifest.graphs
    single = {stage: (known[source_precision(bundle)][stage], graph) for stage, graph in graphs.items()}
    half = (
        {stage: (known[FP16][stage], load_graph(bundle, known[FP16][stage])) for stage in graphs}
        if FP16 in known
        else None
    )
    if request.precision == FP8:
        return {request.quantized(FP16): half or single}
    made = {request.quantized(FP16): half} if half else {}
    if request.precision == CACHE_ALONE and FP32 not in known:
        return made
    return {request.quantized(FP32): single, **made}


def _summarize(
    bundle: Bundle,
    graphs: Mapping[str, GraphFile],
    quantization: Quantization,
    precisions: tuple[Precision, ...],
    data: CalibrationSet,
    seen: Observation,
    sensitivity: Sensitivity | None,
) -> CalibrationSummary:
    everything = {linear.name for linear in _linears(graphs)}
    return CalibrationSummary(
        bundle=str(bundle.path),
        precisions=precisions,
        quantized=(len(quantization.linears), len(everything)),
        kept=sensitivity.kept if sensitivity else (),
        migrated=tuple(name for name, site in quantization.sites.items() if site.migration is not None),
        data=data.describe(),
        strata=dict(sorted(seen.strata.counts.items())),
        statistics_nbytes=seen.nbytes,
        rollouts=seen.done,
    )


def _report(
    summary: CalibrationSummary,
    request: CalibrationRequest,
    sensitivity: Sensitivity | None,
    patterns: Sequence[str],
) -> dict[str, Any]:
    """Return the calibration's report, as stored in the bundle."""
    options = {name: value for name, value in vars(request).items() if name not in _NOT_RECORDED}
    report = {**summary.to_report(), "options": options, "patterns": patterns}
    return report | ({"sensitivity": dataclasses.asdict(sensitivity)} if sensitivity else {})
