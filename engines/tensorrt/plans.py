"""Plans: the build of one stage from its graph, and the inspection of the result."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...bundle import CACHE_ROLES, FP16, FP16_MIXED, INT8, Stage
from ...errors import BackendError, EngineError
from ...hosts.driver import current_gpu
from ..progress import (
    Cancelled,
    make_monitor,
    run_beside,
)
from .audit import audit_layers, check_precision, check_quantized
from .layers import read_layers
from .network import parse_network
from .rtx.process import build_in_process
from .timing import load_timing_cache

if TYPE_CHECKING:
    from pathlib import Path

    from ...bundle import Graph, PlanAudit
    from ...hosts.tensorrt.library import TensorRtLibrary
    from .job import BuildJob
    from .lowering import GraphSource
    from .options import BuildOptions

__all__ = ["BuiltPlan", "build_network", "build_plan"]

_TURING = "7.5"


@dataclass(frozen=True)
class BuiltPlan:
    """A plan that TensorRT built and loaded again.

    Attributes:
        file: The serialized plan.
        scratch_nbytes: Device memory that each context needs.
        build_seconds: Duration of the build.
        audit: Audit of its layers; None if the inspector's output cannot be read.
        inspection: The inspector's JSON.
        timing_cache: The timing cache after the build; b"" if the release has none.
        skipped: Number of warnings about kernels skipped for lack of memory.
    """

    file: Path
    scratch_nbytes: int
    build_seconds: float
    audit: PlanAudit | None
    inspection: str
    timing_cache: bytes
    skipped: int


def build_plan(job: BuildJob, stage: str, source: GraphSource, timing_cache: bytes, file: Path) -> BuiltPlan:
    """Build a stage's plan, load it again where that requires no other GPU, and audit it.

    Args:
        job: The build.
        stage: One of its stages.
        source: The file to parse.
        timing_cache: Timing cache to start from; b"" for none.
        file: Path that the plan is written to.

    Raises:
        BackendError: The parser or the builder refuses; the message contains TensorRT's log.
        EngineError: The plan differs from the request.
        KeyboardInterrupt: The build was interrupted.
        OSError: The plan cannot be written.
    """
    started = time.monotonic()
    if job.tensorrt.has_targets:
        found, timings = build_in_process(job, stage, source, file), b""
        scratch, inspection, skipped = found["scratch_nbytes"], found["inspection"], found["skipped"]
    else:
        scratch, inspection, timings = _build_here(job, stage, source, timing_cache, file)
        skipped = job.tensorrt.log.take_skipped()
    seconds = time.monotonic() - started
    return BuiltPlan(file, scratch, seconds, _audit(job, stage, source, inspection), inspection, timings, skipped)


def _build_here(
    job: BuildJob, stage: str, source: GraphSource, timing_cache: bytes, file: Path
) -> tuple[int, str, bytes]:
    """Return the scratch memory, the inspector's JSON and the timing cache."""
    tensorrt, gpu, cancelled = job.tensorrt, job.tensorrt.gpu, Cancelled()
    assert gpu is not None

    def build() -> tuple[Any, bytes]:
        with current_gpu(gpu.index):  # sets the current GPU of this thread
            return build_network(job, stage, source, timing_cache, cancelled)

    data, timings = run_beside(build, stage, job.progress, cancelled)
    file.write_bytes(memoryview(data))
    with current_gpu(gpu.index):
        scratch, inspection = _inspect(tensorrt, stage, data, job.graphs[stage])
    return scratch, inspection, timings


def _audit(job: BuildJob, stage: str, source: GraphSource, inspection: str) -> PlanAudit | None:
    """Compare the inspector's output with the graph; accept a plan whose inspector output cannot be read."""
    try:
        layers = read_layers(inspection)
    except EngineError as error:
        job.progress(f"{stage}: the precisions of its layers are unknown: {error}")
        return None
    graph = job.graphs[stage]
    half = job.precision == FP16 and stage in (Stage.FILL, Stage.DENOISE)
    check_precision(stage, layers, source.products, wanted=half)
    if graph.quantized is not None:
        check_quantized(stage, layers, graph.quantized, source.quantized_weights)
    cache = {spec.name for spec in graph.inputs if spec.role in CACHE_ROLES}
    audit = audit_layers(layers, cache, source.quantized_weights)
    if audit.quantized_products < audit.quantized_weights:
        job.progress(f"{stage}: {audit.describe_weights()}")
    return audit


def build_network(
    job: BuildJob, stage: str, source: GraphSource, timing_cache: bytes, cancelled: Cancelled
) -> tuple[Any, bytes]:
    """Return the plan of a stage, a buffer in TensorRT's memory, and the timing cache; see :func:`build_plan`."""
    tensorrt = job.tensorrt
    builder = _make_builder(tensorrt)
    network, parser = parse_network(tensorrt, builder, job.graphs[stage], source)
    network.name = stage
    config = builder.create_builder_config()
    configure(job, config, stage)
    if not tensorrt.has_targets:
        load_timing_cache(tensorrt, config, timing_cache, job.progress)
    monitor = make_monitor(tensorrt, stage, job.progress, cancelled)
    if monitor is not None:
        config.progress_monitor = monitor
    tensorrt.log.take_errors()
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise BackendError(f"{stage}: {tensorrt.name} built no plan: {_reason(tensorrt, job.options)}")
    cache = config.get_timing_cache() if not tensorrt.has_targets else None
    timings = bytes(memoryview(cache.serialize())) if cache is not None else b""
    # In this order: the parser owns the network's weights, the config the cache.
    del cache, config, monitor, parser, network, builder
    return data, timings


def configure(job: BuildJob, config: Any, stage: str) -> None:
    """Set the options of a build; those that a release lacks were refused before, or are looked up here."""
    tensorrt, precision, options = job.tensorrt, job.precision, job.options
    trt = tensorrt.module
    flags = trt.BuilderFlag
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.tf32:
        config.set_flag(flags.TF32)
    else:
        config.clear_flag(flags.TF32)
    if not tensorrt.strongly_typed:
        if precision.linears in (FP16.linears, FP16_MIXED.linears):
            config.set_flag(flags.FP16)
        if INT8 in (precision.linears, precision.cache):
            config.set_flag(flags.INT8)
        if options.precision_constraints != "none":
            config.set_flag(getattr(flags, f"{options.precision_constraints.upper()}_PRECISION_CONSTRAINTS"))
    if options.workspace_nbytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_nbytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatibility != "none":
        level = options.hardware_compatibility.upper()
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    for asked, flag in (
        (options.version_compatible, "VERSION_COMPATIBLE"),
        # Otherwise the plan would contain a runtime as native code, which the backend does not load.
        (options.version_compatible, "EXCLUDE_LEAN_RUNTIME"),
        (options.strip_weights, "STRIP_PLAN"),
        # Loading restores the identical weights, so the builder can use every kernel.
        (options.strip_weights and not options.refit, "REFIT_IDENTICAL"),
        (options.refit, "REFIT"),
        (options.weight_streaming_fill and stage == Stage.FILL, "WEIGHT_STREAMING"),
    ):
        if asked:
            config.set_flag(getattr(flags, flag))
    if tensorrt.has_targets:
        _set_targets(tensorrt, config, options)
    else:
        _set_tactics(tensorrt, config, options)


def _set_targets(tensorrt: TensorRtLibrary, config: Any, options: BuildOptions) -> None:
    """Set the GPUs that a plan is for. The lane allocates all memory, so that a run can be captured."""
    trt = tensorrt.module
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.num_compute_capabilities = len(options.targets)
    for index, target in enumerate(options.targets):
        name = f"SM{target.replace('.', '')}"
        if not config.set_compute_capability(getattr(trt.ComputeCapability, name), index):
            raise BackendError(f"{tensorrt.name} takes no target {name.lower()}: {tensorrt.log.take_errors()}")


def _set_tactics(tensorrt: TensorRtLibrary, config: Any, options: BuildOptions) -> None:
    """Turn off cuBLAS and cuDNN unless requested: releases before 10 load them, and none needs them."""
    trt = tensorrt.module
    source = trt.TacticSource
    own = 1 << int(source.EDGE_MASK_CONVOLUTIONS) | 1 << int(source.JIT_CONVOLUTIONS)
    if options.external_tactics:
        own |= 1 << int(source.CUBLAS) | 1 << int(source.CUBLAS_LT) | 1 << int(source.CUDNN)
    if tensorrt.has("TacticSource", "CUDNN"):
        config.set_tactic_sources(own)
    for name, wanted in (
        ("FASTER_DYNAMIC_SHAPES_0805", options.faster_dynamic_shapes),
        ("DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805", not options.external_tactics),
    ):
        if tensorrt.has("PreviewFeature", name):
            config.set_preview_feature(getattr(trt.PreviewFeature, name), wanted)


def _make_builder(tensorrt: TensorRtLibrary) -> Any:
    try:
        return tensorrt.module.Builder(tensorrt.log.logger)
    except TypeError as error:
        raise BackendError(f"{tensorrt.name} does not start: {error}; {tensorrt.log.take_errors()}") from error


def _reason(tensorrt: TensorRtLibrary, options: BuildOptions) -> str:
    logged = tensorrt.log.take_errors()
    if options.workspace_nbytes is not None and re.search("workspace|OutOfMemory", logged, re.IGNORECASE):
        return f"{logged}; the workspace is limited to {options.workspace_nbytes} bytes; raise --workspace"
    if _TURING in options.targets and "FP32 GEMM is not supported" in logged:
        return "for Turing (sm75) it has no float32 products, and every graph has some; leave sm75 out"
    return logged


def _inspect(tensorrt: TensorRtLibrary, stage: str, data: Any, graph: Graph) -> tuple[int, str]:
    """Load a built plan; return its contexts' scratch memory in bytes and the inspector's JSON."""
    trt = tensorrt.module
    runtime = trt.Runtime(tensorrt.log.logger)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BackendError(f"{stage}: TensorRT does not load the plan that it built: {tensorrt.log.take_errors()}")
    _check_sides(stage, engine, graph)
    scratch = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
    inspector = engine.create_engine_inspector()
    inspection = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    del inspector, engine, runtime
    return int(scratch), str(inspection)


def _check_sides(stage: str, engine: Any, graph: Graph) -> None:
    found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    wanted = {spec.name for spec in (*graph.inputs, *graph.outputs)}
    if found != wanted:
        raise EngineError(
            f"{stage}: the plan lacks {sorted(wanted - found)}, and has {sorted(found - wanted)} beside the graph's"
        )
