"""Engine lookup: compares engines with the bundle's graphs and the machine, before any plan is loaded.

It builds no engine and queries no GPU: the caller describes the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import BundleError, EngineError
from ..precision import Precision
from ..resolution import precision_candidates
from .backends import BACKENDS, PROVIDERS
from .engine import Engine, list_engines, stage_graphs
from .manifest import EngineManifest, Machine
from .targets import PORTABLE_TARGETS, runs_on
from .trust import is_trusted
from .versions import version_numbers

if TYPE_CHECKING:
    from ..folder import Bundle

__all__ = ["engine_mismatches", "find_engine", "rebuild_command"]

# Major release of a version-compatible plan to the major releases that read it; 8 to 11 is not guaranteed.
_READERS = {8: (8, 10), 10: (10, 11), 11: (11,)}
_AMPERE = (8, 0)


def find_engine(
    bundle: Bundle,
    precision: Precision | None,
    machine: Machine,
    *,
    gpu: int = 0,
    lean_runtime: bool = False,
    trust_plans: bool = False,
) -> Engine:
    """Return the newest engine of a bundle that fits its graphs and this machine, and that may be loaded.

    Args:
        bundle: The bundle that contains the engines.
        precision: Of the graphs; None takes the first of :func:`precision_candidates` that has such an engine.
        machine: This machine.
        gpu: Index of its GPU, for the command that rebuilds.
        lean_runtime: Whether a lean runtime is available for version-compatible plans of another TensorRT.
        trust_plans: Whether plans may be loaded that this user has no record of building.

    Raises:
        BundleError: The bundle does not have that precision.
        EngineError: No engine fits; the message names what each engine of that backend and precision was built for.
    """
    candidates = precision_candidates(bundle, precision, machine.backend)
    engines = list_engines(bundle, machine.backend)
    others = []
    for wanted in candidates:
        for engine in engines:
            if engine.manifest.precision != wanted:
                continue
            found = engine_mismatches(engine, bundle, machine, lean_runtime=lean_runtime, trust_plans=trust_plans)
            if not found:
                return engine
            others.append(f"{engine.manifest.key}: {'; '.join(found)}")
    named = " or ".join(map(str, candidates))
    command = rebuild_command(bundle, candidates[0], machine.backend, gpu, machine.provider)
    if others:
        raise EngineError(f"{bundle.path}: no {named} engine fits; build one with {command}. " + " | ".join(others))
    there = ", ".join(dict.fromkeys(str(engine.manifest.precision) for engine in engines))
    hint = f", or name the precision of an existing one: {there}" if there else ""
    raise EngineError(f"{bundle.path}: has no {named} engine; build one with {command}{hint}")


def engine_mismatches(
    engine: Engine, bundle: Bundle, machine: Machine, *, lean_runtime: bool = False, trust_plans: bool = False
) -> tuple[str, ...]:
    """Return how an engine differs from the bundle's graphs and from this machine; empty if it fits.

    Each sentence names both values: what the engine was built for, then what this machine or bundle has. An engine
    that failed a check after it was built never fits, nor does one with plans that are not trusted, unless
    ``trust_plans``.
    """
    manifest = engine.manifest
    return tuple(
        [
            *_machine_mismatches(manifest, machine, lean_runtime),
            *_graph_mismatches(manifest, bundle),
            *_failed_checks(manifest),
            *([] if trust_plans else _foreign_plans(manifest)),
        ]
    )


def rebuild_command(
    bundle: Bundle, precision: Precision, backend: str = "tensorrt", gpu: int = 0, provider: str = ""
) -> str:
    """Return the command that builds an engine of a bundle for the machine it runs on."""
    chosen = "" if backend == "tensorrt" else f" --backend {backend}"
    chosen += " --provider cuda" if provider == PROVIDERS["cuda"] else ""
    chosen += f" --gpu {gpu}" if gpu else ""
    return f"vdmrt build {bundle.path} --precision {precision}{chosen}"


def _machine_mismatches(manifest: EngineManifest, machine: Machine, lean_runtime: bool) -> Iterator[str]:
    if manifest.backend != machine.backend:
        yield f"built for {manifest.backend}, here is {machine.backend}"
    elif manifest.backend == "onnxruntime":
        yield from _onnxruntime_mismatches(manifest.machine, machine)
    elif manifest.backend == "tensorrt-rtx":
        yield from _rtx_mismatches(manifest, machine)
    else:
        yield from _version_mismatches(manifest, machine, lean_runtime)
        yield from _gpu_mismatches(manifest, machine)


def _onnxruntime_mismatches(built: Machine, machine: Machine) -> Iterator[str]:
    """Yield what differs: a graph may contain operators of one release and provider, in the layout of one CPU."""
    if built.onnxruntime != machine.onnxruntime:
        yield f"built with ONNX Runtime {built.onnxruntime}, here is {machine.onnxruntime}"
    if built.provider != machine.provider:
        yield f"built for {built.provider}, here is {machine.provider}"
    elif built.cpu != machine.cpu:
        yield f"built on a CPU with {built.cpu}, here is one with {machine.cpu}"


def _rtx_mismatches(manifest: EngineManifest, machine: Machine) -> Iterator[str]:
    """Yield why TensorRT for RTX cannot load the plans, which every release builds anew."""
    built, here = manifest.machine.tensorrt_rtx, machine.tensorrt_rtx
    if built != here:
        yield f"built with TensorRT for RTX {built}, here is {here}"
    capability = machine.compute_capability
    if capability and not runs_on(manifest.targets, capability):
        targets = ", ".join(manifest.targets or PORTABLE_TARGETS)
        yield f"built for compute capability {targets}, here is {machine.gpu} with {capability}"


def _version_mismatches(manifest: EngineManifest, machine: Machine, lean_runtime: bool) -> Iterator[str]:
    """Yield why TensorRT cannot load the plans: they contain no runtime, so another release needs a lean runtime."""
    built, here = manifest.machine.tensorrt, machine.tensorrt
    if built == here:
        return
    both = f"built with TensorRT {built}, here is {here}"
    if not _reads(manifest, here):
        yield both
    elif not lean_runtime:
        library = f"libnvinfer_lean.so.{built.partition('.')[0]}"
        yield f"{both}, which runs it only with the lean runtime of {built}: pass it with --lean-runtime {library}"
    elif manifest.stripped:
        yield f"{both}, and contains no weights, which a lean runtime cannot refit"


def _gpu_mismatches(manifest: EngineManifest, machine: Machine) -> Iterator[str]:
    built = manifest.machine
    level = manifest.hardware_compatibility
    if level == "ampere_plus" and _capability(machine) >= _AMPERE:
        return
    if built.compute_capability != machine.compute_capability:
        yield f"built for compute capability {built.compute_capability}, here is {machine.compute_capability}"
    elif built.gpu != machine.gpu and level != "same_compute_capability":
        yield f"built on {built.gpu}, here is {machine.gpu}"


def _reads(manifest: EngineManifest, version: str) -> bool:
    """Whether TensorRT ``version`` reads the version-compatible plans of the release that built this engine."""
    if not manifest.version_compatible:
        return False
    built, here = version_numbers(manifest.machine.tensorrt), version_numbers(version)
    return here[:1] != () and here[0] in _READERS.get(built[0] if built else 0, ()) and here >= built


def _capability(machine: Machine) -> tuple[int, ...]:
    return version_numbers(machine.compute_capability)


def _graph_mismatches(manifest: EngineManifest, bundle: Bundle) -> Iterator[str]:
    try:
        graphs = stage_graphs(bundle, manifest.precision)
    except BundleError:
        yield f"built from {manifest.precision} graphs, the bundle has {', '.join(map(str, bundle.manifest.graphs))}"
        return
    for stage, graph in graphs.items():
        plan = manifest.plans.get(stage)
        if plan is None:
            yield f"has no plan for '{stage}', which the bundle has"
            continue
        weights = graph.weights.sha256 if graph.weights else None
        for what, built, here in (
            ("graph", plan.graph_sha256, graph.file.sha256),
            ("weights", plan.weights_sha256 or "none", weights or "none"),
        ):
            if built != here:
                yield f"'{stage}' was built from a {what} of SHA-256 {built[:16]}, the bundle's is {here[:16]}"


def _failed_checks(manifest: EngineManifest) -> Iterator[str]:
    for check in manifest.checks:
        if check.required and not check.passed:
            yield f"failed its check '{check.name}' after it was built: {check.detail}"


def _foreign_plans(manifest: EngineManifest) -> Iterator[str]:
    """Yield plans that must not be loaded. An early check only: loading a plan checks the bytes that it read."""
    if BACKENDS[manifest.backend].is_native and not all(
        is_trusted(plan.file.sha256) for plan in manifest.plans.values()
    ):
        yield "its plans are native code that this user has not built: --trust-plans loads them"
