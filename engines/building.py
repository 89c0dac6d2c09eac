"""Engine builds with TensorRT and TensorRT for RTX: planned, built by stage, audited, and placed atomically."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import (
    BACKENDS,
    FP16,
    LAYERS_FILE,
    PORTABLE_TARGETS,
    Artifact,
    EngineManifest,
    Plan,
    Precision,
    Stage,
    check_trust_folder,
    choose_precision,
    format_nbytes,
    has_fp8,
    record_trust,
    runs_on,
    sha256_of,
    stage_graphs,
)
from ..errors import BackendError, EngineError
from ..hosts.driver import find_gpu, probe_driver
from ..hosts.onnxruntime import has_provider
from ..hosts.tensorrt.release import open_tensorrt
from ..hosts.tensorrt.rtx import open_tensorrt_rtx
from .forms import describe_forms
from .placing import find_built, place_engine, utc_now, verify_graphs
from .planner import check_fit, plan_engine
from .tensorrt.job import BuildJob, describe_options
from .tensorrt.lowering import (
    find_source,
    lower_graphs,
    needs_lowering,
)
from .tensorrt.options import BuildOptions
from .tensorrt.plans import build_plan
from .tensorrt.timing import read_timing_cache, save_timing_cache, timing_cache_path

if TYPE_CHECKING:
    from ..bundle import (
        BackendName,
        Bundle,
        Engine,
        Graph,
        ProviderName,
    )
    from ..hosts.gpu import Gpu
    from ..hosts.tensorrt.library import TensorRtLibrary
    from .progress import Progress
    from .tensorrt.lowering import (
        GraphSource,
    )
    from .tensorrt.plans import BuiltPlan

__all__ = [
    "build_engines",
    "describe_options",
    "describe_targets",
    "fit_options",
    "open_builder",
    "runs_here",
    "trtexec_line",
]

_log = logging.getLogger("vdmrt")
_TIMINGS = "timing.cache"


def build_engines(
    bundle: Bundle,
    *,
    backend: BackendName = "tensorrt",
    precision: Precision | str | None = None,
    options: BuildOptions | None = None,
    gpu: int = 0,
    force: bool = False,
    progress: Progress = _log.info,
) -> Engine:
    """Build the plans of every stage, unless they exist.

    TensorRT builds for a GPU of this machine, TensorRT for RTX on any machine for the targets of the options.
    Of two processes that build the same engine, one builds; the other waits and uses the result. An exception, Ctrl-C
    or a kill never leaves an incomplete engine.

    Args:
        bundle: Bundle; the engine is written to its ``engines/<key>``.
        backend: The backend that runs the engine.
        precision: Precision of the graphs, or its name; None selects that of
            :func:`~vdmrt.bundle.choose_precision` for the backend.
        options: Options of the build; None selects every default.
        gpu: Index of the GPU, in the driver's order; TensorRT for RTX builds for it where no target is given.
        force: Whether to build an engine that exists already, or that the planner estimates not to fit.
        progress: Called with lines of text, from any thread.

    Raises:
        BackendError: The GPU or TensorRT is missing, or TensorRT refuses the graph.
        BundleError: The bundle does not contain that precision, or a file of it was altered.
        EngineError: The engine does not fit, cannot be written, or differs from the request.
        KeyboardInterrupt: The build was interrupted.
        ValueError: ``precision`` is not a precision's name.
    """
    wanted = None if precision is None else Precision.parse(precision)
    tensorrt, options = open_builder(backend, gpu, options or BuildOptions())
    chosen = choose_precision(bundle, wanted, backend)
    graphs = stage_graphs(bundle, chosen)
    options = fit_options(tensorrt, options, graphs)
    if tensorrt.has_targets:
        progress(describe_targets(options))
    plan = plan_engine(bundle, chosen, tensorrt.gpu)
    for line in plan.lines():
        progress(line)
    if not force:
        check_fit(plan)
    job = BuildJob(tensorrt, chosen, graphs, options, progress)
    key, machine = job.key, tensorrt.machine
    found = None if force else find_built(bundle, key, machine)
    if found is not None:
        progress("built already; --force builds it again")
        return found
    check_trust_folder()
    verify_graphs(bundle, graphs)
    sources = _find_sources(bundle, job)
    return place_engine(
        bundle, key, machine, lambda work: _build_into(work, job, sources), force=force, progress=progress
    )


def open_builder(backend: BackendName, gpu: int, options: BuildOptions) -> tuple[TensorRtLibrary, BuildOptions]:
    """Return the library that builds for a backend, and the options with the GPU that it builds for.

    Raises:
        BackendError: The GPU or the library is missing.
        EngineError: The library does not support an option.
    """
    if backend == "tensorrt":
        options.check_targets()
        library: TensorRtLibrary = open_tensorrt(find_gpu(gpu, "building TensorRT engines"), building=True)
    elif backend == "tensorrt-rtx":
        library = open_tensorrt_rtx()
        if gpu and (options.targets or options.portable):
            raise EngineError("--gpu selects the target, as --target and --portable do; leave one of them out")
        options = options.for_gpu(_local_gpu(gpu))
    else:
        raise ValueError(f"wanted tensorrt or tensorrt-rtx, got {backend!r}; vdmrt.engines.build_models builds for it")
    options.check(library)
    return library, options


def _local_gpu(index: int) -> Gpu | None:
    """Return a GPU of this machine, None for the first one where there is none.

    Raises:
        BackendError: There is no such GPU.
    """
    gpus = probe_driver().gpus
    if index and index >= len(gpus):
        raise BackendError(
            f"wanted GPU {index} as the target, the driver sees {len(gpus)}; leave --gpu out, or name the target with "
            "--target"
        )
    return gpus[index] if gpus else None


def runs_here(backend: BackendName, options: BuildOptions, gpu: int, provider: ProviderName = "cpu") -> bool:
    """Whether this machine has the GPU and the provider that an engine is built for; some are built without them."""
    on_cuda = backend == "onnxruntime" and provider == "cuda"
    if not (BACKENDS[backend].builds_anywhere or on_cuda):
        return True
    found = _local_gpu(gpu)
    if on_cuda:
        return found is not None and has_provider("cuda")
    return found is not None and runs_on(options.for_gpu(found).targets, found.compute_capability)


def describe_targets(options: BuildOptions) -> str:
    """Return in one line which GPUs TensorRT for RTX builds for."""
    portable = f"{', '.join(PORTABLE_TARGETS)}; --target makes a plan for one, which may be faster"
    return f"GPUs            of compute capability {', '.join(options.targets) or portable}"


def fit_options(library: TensorRtLibrary, options: BuildOptions, graphs: Mapping[str, Graph]) -> BuildOptions:
    """Return the options for graphs: those with FP8 are built only for GPUs that have it.

    Raises:
        EngineError: A GPU that was asked for does not have it.
    """
    if library.has_targets and any(graph.has_fp8 for graph in graphs.values()):
        options = options.for_fp8()
    _check_fp8(graphs, _gpus_of(library, options))
    return options


def _gpus_of(tensorrt: TensorRtLibrary, options: BuildOptions) -> dict[str, str]:
    """Return the compute capability of every GPU that is built for, by name; none for a portable plan."""
    if tensorrt.gpu is not None:
        return {tensorrt.gpu.name: tensorrt.gpu.compute_capability}
    return {f"the target sm{target.replace('.', '')}": target for target in options.targets}


def _check_fp8(graphs: Mapping[str, Graph], gpus: Mapping[str, str]) -> None:
    """Check that every GPU, given by name with its compute capability, has FP8 where a graph needs it."""
    for name, capability in gpus.items() if any(graph.has_fp8 for graph in graphs.values()) else ():
        if not has_fp8(capability):
            raise EngineError(
                f"FP8 products and an FP8 cache need compute capability 8.9 or newer, {name} has {capability}; use "
                "int8-fp16 or fp16"
            )


def trtexec_line(source: Path, stage: str, precision: Precision, options: BuildOptions, version: str | None) -> str:
    """Return the trtexec command that builds the closest plan."""
    words = ["trtexec", f"--onnx={source}", f"--saveEngine={stage}.plan", "--profilingVerbosity=detailed"]
    if version is not None and needs_lowering(version):
        words += ["--fp16"] * (precision == FP16) + [f"--precisionConstraints={options.precision_constraints}"]
        words += ["--layerPrecisions=<type of each layer, from the graph>"]
    else:
        words += ["--stronglyTyped"]
    words += ["--noTF32"] * (not options.tf32)
    if options.workspace_nbytes is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace_nbytes / 2**20:g}")
    if options.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.hardware_compatibility != "none":
        level = {"ampere_plus": "ampere+", "same_compute_capability": "sameComputeCapability"}
        words.append(f"--hardwareCompatibilityLevel={level[options.hardware_compatibility]}")
    words += ["--versionCompatible"] * options.version_compatible
    words += ["--stripWeights"] * options.strip_weights + ["--refit"] * options.refit
    words += ["--allowWeightStreaming"] * (options.weight_streaming_fill and stage == Stage.FILL)
    if options.timing_cache is not None:
        words.append(f"--timingCacheFile={options.timing_cache}")
    return shlex.join(words)


def _find_sources(bundle: Bundle, job: BuildJob) -> dict[str, GraphSource]:
    """Return the file to parse for each stage; lower graphs that were not lowered yet."""
    release = job.tensorrt.parser_version
    try:
        return {stage: find_source(bundle, graph, release) for stage, graph in job.graphs.items()}
    except EngineError:
        lower_graphs(bundle, job.precision, release=release, progress=lambda stage: job.progress(f"lowering {stage}"))
        return {stage: find_source(bundle, graph, release) for stage, graph in job.graphs.items()}


def _build_into(work: Path, job: BuildJob, sources: Mapping[str, GraphSource]) -> EngineManifest:
    """Build every stage, write plans, layers and timing cache into ``work``, and record trust in the plans."""
    options, machine = job.options, job.tensorrt.machine
    cache_path = None if job.tensorrt.has_targets else timing_cache_path(machine, options.timing_cache)
    timings = read_timing_cache(cache_path) if cache_path else b""
    plans: dict[str, Plan] = {}
    layers: dict[str, object] = {}
    for stage, graph in job.graphs.items():
        job.progress(f"{stage}: building with {job.tensorrt.name}")
        built = build_plan(job, stage, sources[stage], timings, work / f"{stage}.plan")
        plans[stage] = _describe_plan(graph, sources[stage], built)
        layers[stage] = _parsed(built.inspection)
        if built.timing_cache and cache_path:
            timings = built.timing_cache
            _keep_timings(cache_path, timings, job.progress)
        _report(job, stage, plans[stage], built.skipped)
    if cache_path:
        (work / _TIMINGS).write_bytes(timings)
    listing = work / LAYERS_FILE
    listing.write_text(json.dumps(layers), encoding="utf-8")
    for plan in plans.values():
        record_trust(plan.file.sha256)
    return EngineManifest(
        key=job.key,
        backend=job.tensorrt.backend,
        precision=job.precision,
        machine=machine,
        plans=plans,
        options=describe_options(options, job.tensorrt),
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        stripped=options.strip_weights,
        created=utc_now(),
        layers=Artifact(listing.name, sha256_of(listing), listing.stat().st_size),
        targets=options.targets,
    )


def _report(job: BuildJob, stage: str, plan: Plan, skipped: int) -> None:
    """Report a built plan, the forms of its functions, and kernels that the builder skipped."""
    job.progress(_summary(stage, plan))
    for line in describe_forms(plan.forms or {}):
        job.progress(f"{stage}: {line}")
    if skipped:
        job.progress(f"{stage}: {_explain_skipped(skipped)}")


def _describe_plan(graph: Graph, source: GraphSource, built: BuiltPlan) -> Plan:
    return Plan(
        file=Artifact(built.file.name, sha256_of(built.file), built.file.stat().st_size),
        graph_sha256=graph.file.sha256,
        weights_sha256=graph.weights.sha256 if graph.weights else None,
        inputs=graph.inputs,
        outputs=graph.outputs,
        scratch_nbytes=built.scratch_nbytes,
        build_seconds=round(built.build_seconds, 2),
        audit=built.audit,
        forms=source.forms,
    )


def _keep_timings(path: Path, timings: bytes, progress: Progress) -> None:
    """Save the timing cache, also if the build fails later; report a failure to write it, which only costs time."""
    try:
        save_timing_cache(path, timings)
    except EngineError as error:
        progress(f"the timing cache is not saved: {error}")


def _explain_skipped(count: int) -> str:
    """Return an explanation of TensorRT's warnings about skipped tactics."""
    return (
        f"TensorRT skipped {count} kernels for lack of GPU memory: the plan is correct but may be slower; free "
        "memory, or raise --workspace if it was given"
    )


def _parsed(inspection: str) -> object:
    """Return the inspector's output parsed as JSON, or as text if it is not JSON."""
    try:
        return json.loads(inspection, strict=False)
    except ValueError:
        return inspection


def _summary(stage: str, plan: Plan) -> str:
    built = (
        f"{stage}: built in {plan.build_seconds:.1f} s, {format_nbytes(plan.file.nbytes)}, scratch "
        f"{format_nbytes(plan.scratch_nbytes)}"
    )
    if plan.audit is None:
        return built
    products = ", ".join(f"{count} in {dtype}" for dtype, count in sorted(plan.audit.products.items())) or "none named"
    copied = sum(copy.nbytes for copy in plan.audit.cache_copies)
    return f"{built}, {plan.audit.layers} layers, products: {products}, cache copies {format_nbytes(copied)} a run"
