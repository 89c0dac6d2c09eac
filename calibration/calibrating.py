"""A calibration from a bundle and clips to further precisions in the same bundle, as ``vdmrt calibrate`` does it."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..bundle import CACHE_SUFFIXES, Bundle, Calibration, Graph, amended_bundle, open_bundle
from ..runtime.model import Model
from ..runtime.onnxruntime_backend import OnnxRuntimeBackend
from ..runtime.sampling_options import SamplingOptions
from ..runtime.session_arguments import session_arguments
from .cache_scales import CacheScales, choose_cache_scales, fold_cache, fold_statistics
from .data import CalibrationSet, read_set
from .formats import FORMATS
from .graph_file import GraphFile, WeightsFile, load_graph
from .linears import KEPT, choose_linears, find_linears, sites_of
from .observation import Observation, observe_rollouts
from .publishing import with_weights, write_precision
from .quantisation import Quantisation, make_quantisation
from .ranges import Method
from .reference import reference_bundle, reference_graphs, source_precision
from .rendering import render
from .rounding import Rounding
from .sensitivity import Sensitivity, fit_budget

__all__ = ["CalibrationRequest", "CalibrationSummary", "calibrate", "publish", "quantise"]

# Options that are no part of what was made.
_NOT_TOLD = ("bundle", "data", "text", "text_mask", "threads", "observations")
_log = logging.getLogger("vdmrt")
Target = Literal["int8", "fp8", "none"]


@dataclass(frozen=True)
class CalibrationRequest(SamplingOptions):
    """What to make; the names are the options of ``vdmrt calibrate``. Those of sampling are of the rollouts.

    Attributes:
        bundle: The bundle's folder.
        data: Clips or latents, a file or a folder.
        precision: "int8" or "fp8" for the linears, "none" for the cache alone.
        samples: Denoising runs to observe.
        method: How ranges are chosen.
        smooth: SmoothQuant's alpha, 0 for none.
        rounding: How weights are rounded: "gptq", each making up for those before it, or "nearest".
        keep: Patterns of linears that stay in floating point.
        budget: Least PSNR in dB against float32 over short rollouts, for which the most sensitive groups of layers
            stay in floating point; None for no such search.
        keep_fill: Whether the linears of the cache fill stay in floating point: it runs once a chunk, and what it
            rounds stays in the cache.
        kv: "int8" or "fp8" for a quantised cache, or None.
        seed: Of all noise and choices.
        threads: Threads of the CPU provider.
        observations: Folder in which statistics are kept for further calibrations on the same data; None keeps them in
            the bundle until the graphs are written.
    """

    bundle: Path
    data: Path
    precision: Target = "int8"
    samples: int = 96
    method: Method = "mse"
    smooth: float = 0.5
    rounding: Rounding = "gptq"
    keep: tuple[str, ...] = ()
    budget: float | None = None
    keep_fill: bool = False
    kv: Literal["int8", "fp8"] | None = None
    seed: int = 0
    threads: int | None = None
    observations: Path | None = None

    def __post_init__(self) -> None:
        SamplingOptions.__post_init__(self)
        if self.budget is not None and not 0 < self.budget < math.inf:
            raise ValueError(f"--budget must be a finite number of dB above 0, got {self.budget}")
        if self.precision == "none" and self.kv is None:
            raise ValueError("--precision none quantises no linear, so it goes with --kv int8 or fp8")
        if self.budget is not None and self.precision == "none":
            raise ValueError("--budget chooses among linears, so it goes with --precision int8 or fp8")

    @property
    def suffix(self) -> str:
        """What the cache adds to the names of precisions."""
        return CACHE_SUFFIXES[self.kv] if self.kv else ""

    @property
    def stem(self) -> str:
        """What the files that all renderings share are called by."""
        return f"{self.precision}{self.suffix}" if self.precision != "none" else self.suffix.removeprefix("-")


@dataclass(frozen=True)
class CalibrationSummary:
    """What was made.

    Attributes:
        bundle: The bundle's folder.
        precisions: What it has now that it had not, or had otherwise.
        quantised: Linears that are 8 bit, and all there are.
        kept: Groups that the budget keeps in floating point.
        migrated: Sites whose outlier channels went into the weights.
        data: The calibration set in one line.
        strata: How often each state was observed.
        statistics_nbytes: Memory of the statistics.
    """

    bundle: str
    precisions: tuple[str, ...]
    quantised: tuple[int, int]
    kept: tuple[str, ...]
    migrated: tuple[str, ...]
    data: str
    strata: Mapping[str, int]
    statistics_nbytes: int

    def describe(self) -> str:
        """Say it in a few lines."""
        of, all_ = self.quantised
        return (
            f"{self.bundle}: now has {', '.join(self.precisions)}\n"
            f"{of} of {all_} linears in 8 bits, outlier channels migrated at {len(self.migrated)} places\n"
            + (f"the budget keeps {', '.join(self.kept)} in floating point\n" if self.kept else "")
            + f"observed {sum(self.strata.values())} runs of {self.data}"
        )


def calibrate(
    request: CalibrationRequest, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> CalibrationSummary:
    """Observe, choose every scale, and add the quantised graphs to the bundle.

    What was observed is kept in the bundle's ``calibration/`` until the graphs are written, so that a run that was
    stopped goes on after its last whole rollout.

    Raises:
        CalibrationError: The data or an option does not fit the model.
        BundleError: The bundle is altered or cannot be written.
        MediaError: A file of the data cannot be read.
    """
    bundle = open_bundle(request.bundle)
    bundle.verify()
    graphs = reference_graphs(bundle)
    with tempfile.TemporaryDirectory(prefix="vdmrt-calibrate-") as folder:
        reference = reference_bundle(bundle, Path(folder))
        with Model(reference, OnnxRuntimeBackend(threads=request.threads), "fp32") as model:
            data = read_set(request.data, model)
        _log.info("calibration set: %s", data.describe())
        seen = observe_rollouts(
            reference,
            graphs,
            data,
            samples=request.samples,
            seed=request.seed,
            threads=request.threads,
            options=session_arguments(request),
            resume=request.observations or bundle.path / "calibration",
            on_progress=on_progress,
        )
        quantisation = quantise(graphs, seen, request, rope=bundle.manifest.geometry.positions == "rope")
        found = None
        if request.budget is not None:
            found = fit_budget(
                reference,
                graphs,
                quantisation,
                data,
                request.budget,
                options=session_arguments(request),
                threads=request.threads,
                on_progress=on_progress,
            )
            quantisation = quantisation.keeping(found.kept)
    return publish(bundle, graphs, quantisation, request, data, seen, found)


def quantise(
    graphs: Mapping[str, GraphFile], seen: Observation, request: CalibrationRequest, *, rope: bool
) -> Quantisation:
    """Choose every scale for float32 graphs.

    Raises:
        CalibrationError: A pattern matches nothing, or nothing is left to quantise.
    """
    cache: dict[str, CacheScales] = {}
    activations: Mapping[str, Mapping[str, Any]] = seen.activations
    folded = {stage: graph.copy() for stage, graph in graphs.items()}
    if request.kv is not None:
        cache = choose_cache_scales(seen.cache, FORMATS[request.kv], rope=rope)
        activations = fold_statistics(seen.activations, cache)
        for graph in folded.values():
            fold_cache(graph, cache)
    if request.precision == "none":
        return Quantisation("int8", request.method, {}, {}, cache)
    linears = {stage: find_linears(graph) for stage, graph in folded.items()}
    everything = [linear for found in linears.values() for linear in found]
    names = {linear.name for linear in choose_linears(everything, request.keep)}
    made = make_quantisation(
        activations,
        {stage: [one for one in found if one.name in names] for stage, found in linears.items()},
        sites_of(linears.values()),
        {one.name: folded[stage].weights[one.weight] for stage, found in linears.items() for one in found},
        kind=FORMATS[request.precision],
        method=request.method,
        smooth=request.smooth,
        rounding=request.rounding,
    )
    return dataclasses.replace(made, cache=cache)


def publish(
    bundle: Bundle,
    graphs: Mapping[str, GraphFile],
    quantisation: Quantisation,
    request: CalibrationRequest,
    data: CalibrationSet,
    seen: Observation,
    sensitivity: Sensitivity | None = None,
) -> CalibrationSummary:
    """Write every rendering of a quantisation into the bundle, and how it came about."""
    stem = request.stem
    renderings = _renderings(bundle, graphs, request)
    manifest = bundle.manifest
    summary = _summarize(bundle, graphs, quantisation, tuple(renderings), data, seen, sensitivity)
    replaced = {f"graphs/{stage}.{label}.onnx" for label in renderings for stage in graphs}
    replaced |= {f"graphs/weights.{stem}.bin"}
    replaced |= {f"calibration/{stem}/{name}" for name in ("scales.json", "report.json", "budget.svg")}
    replaced |= {f"calibration/{file.name}" for file in (bundle.path / "calibration").glob("observation-*.npz")}
    by_stage = dict.fromkeys(graphs, quantisation)
    if request.keep_fill:
        by_stage["fill"] = dataclasses.replace(quantisation, linears={})
    quantised: Any = None if request.precision == "none" else request.precision
    with amended_bundle(bundle, without=replaced) as writer:
        weights = WeightsFile(writer.path / "graphs" / f"weights.{stem}.bin")
        written = {
            label: write_precision(
                writer,
                label,
                {
                    stage: render(opened, stage, by_stage[stage], graphs[stage])
                    for stage, (_, opened) in sources.items()
                },
                sources,
                weights,
                quantised,
            )
            for label, sources in renderings.items()
        }
        record = writer.record(f"graphs/{weights.path.name}")
        (writer.path / "calibration" / stem).mkdir(parents=True, exist_ok=True)
        (writer.path / "calibration" / stem / "scales.json").write_text(quantisation.to_json(), encoding="utf-8")
        report = json.dumps(_report(summary, request, sensitivity), indent=1) + "\n"
        (writer.path / "calibration" / stem / "report.json").write_text(report, encoding="utf-8")
        scales, told = (writer.record(f"calibration/{stem}/{name}.json") for name in ("scales", "report"))
        picture = None
        if sensitivity is not None:
            (writer.path / "calibration" / stem / "budget.svg").write_text(sensitivity.to_svg(), encoding="utf-8")
            picture = writer.record(f"calibration/{stem}/budget.svg")
        made = tuple(Calibration(label, scales, told, summary.data, data.sha256, picture) for label in written)  # type: ignore[arg-type]
        writer.finish(
            dataclasses.replace(
                manifest,
                graphs={**manifest.graphs, **{label: with_weights(new, record) for label, new in written.items()}},
                calibrations=(*(one for one in manifest.calibrations if one.precision not in written), *made),
                accuracy=tuple(one for one in manifest.accuracy if one.precision not in written),
                speeds=tuple(one for one in manifest.speeds if one.precision not in written),
            )
        )
    return summary


def _renderings(
    bundle: Bundle, graphs: Mapping[str, GraphFile], request: CalibrationRequest
) -> dict[str, dict[str, tuple[Graph, GraphFile]]]:
    """Return what each new precision is made from: by label, by stage, as model.json has it and opened."""
    known = bundle.manifest.graphs
    suffix = request.suffix
    single = {stage: (known[source_precision(bundle)][stage], graph) for stage, graph in graphs.items()}
    half = (
        {stage: (known["fp16"][stage], load_graph(bundle, known["fp16"][stage])) for stage in graphs}
        if "fp16" in known
        else None
    )
    if request.precision == "none":
        chosen = {f"fp32{suffix}": single} if "fp32" in known else {}
        return chosen | ({f"fp16{suffix}": half} if half else {})
    if request.precision == "fp8":
        return {f"fp8{suffix}": half or single}
    return {f"int8{suffix}": single} | ({f"int8-fp16{suffix}": half} if half else {})


def _summarize(
    bundle: Bundle,
    graphs: Mapping[str, GraphFile],
    quantisation: Quantisation,
    precisions: tuple[str, ...],
    data: CalibrationSet,
    seen: Observation,
    sensitivity: Sensitivity | None,
) -> CalibrationSummary:
    everything = {linear.name for graph in graphs.values() for linear in find_linears(graph)}
    return CalibrationSummary(
        bundle=str(bundle.path),
        precisions=precisions,
        quantised=(len(quantisation.linears), len(everything)),
        kept=sensitivity.kept if sensitivity else (),
        migrated=tuple(name for name, site in quantisation.sites.items() if site.migration is not None),
        data=data.describe(),
        strata=dict(sorted(seen.strata.counts.items())),
        statistics_nbytes=seen.nbytes,
    )


def _report(
    summary: CalibrationSummary, request: CalibrationRequest, sensitivity: Sensitivity | None
) -> dict[str, Any]:
    """Return what is worth keeping; no time and no path, so that the same calibration gives the same bytes."""
    told = dataclasses.asdict(summary)
    del told["bundle"]
    options = {name: value for name, value in vars(request).items() if name not in _NOT_TOLD}
    told |= {"options": options, "patterns": [*KEPT, *request.keep]}
    return told | ({"sensitivity": dataclasses.asdict(sensitivity)} if sensitivity else {})
