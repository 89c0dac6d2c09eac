"""ONNX Runtime engine builds: graphs rewritten for a provider, and for the CPU optimized once for every load."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...bundle import (
    FP8,
    PROVIDERS,
    Artifact,
    EngineManifest,
    Plan,
    Precision,
    choose_precision,
    format_nbytes,
    sha256_of,
    stage_graphs,
    version_numbers,
)
from ...errors import BackendError, EngineError
from ...hosts import need_packages
from ...hosts.onnxruntime import describe_machine, open_onnxruntime
from ..forms import check_forms, describe_forms
from ..keys import engine_key
from ..placing import (
    find_built,
    place_engine,
    utc_now,
    verify_graphs,
)
from ..progress import Cancelled, run_beside
from .engine_weights import EngineWeights, point_at

if TYPE_CHECKING:
    import onnx

    from ...bundle import (
        Bundle,
        Engine,
        Graph,
        Machine,
        ProviderName,
    )
    from ..forms import Forms
    from ..progress import Progress

__all__ = ["ModelOptions", "build_models", "load_onnxruntime", "model_key"]

_log = logging.getLogger("vdmrt")
# Part of an engine's key: raise it when the processing of graphs here changes.
_RECIPE = 2
_TASK = "building engines of ONNX Runtime"
# First release that resolves external weights of an in-memory graph in a given folder (1.20 uses the working folder).
_OLDEST = (1, 21)
_FOLDER = "session.model_external_initializers_file_folder_path"
_WEIGHTS = "session.optimized_model_external_initializers_file_name"


@dataclass(frozen=True)
class ModelOptions:
    """Options of an engine.

    Attributes:
        provider: Execution provider that runs the engine. Graphs for "cuda" are optimized when they are loaded.
        level: ONNX Runtime's optimization level for "cpu": "all" may change the layout of weights for this type of
            CPU, "extended" does not.
    """

    provider: ProviderName = "cpu"
    level: Literal["extended", "all"] = "all"

    def to_manifest(self) -> dict[str, str]:
        """Return the options that affect the engine, as text."""
        return ({"level": self.level} if self.provider == "cpu" else {}) | {"recipe": str(_RECIPE)}


def build_models(
    bundle: Bundle,
    *,
    precision: Precision | str | None = None,
    options: ModelOptions | None = None,
    force: bool = False,
    progress: Progress = _log.info,
) -> Engine:
    """Rewrite every stage's graph for a provider of ONNX Runtime, unless the engine exists.

    For the CPU's provider the graphs are also optimized for this machine's CPU. Unchanged weights stay in the bundle.
    Changed ones (folded, cast, in another layout) are written to one file that the stages share. An engine for CUDA
    needs no GPU to build, and is bound to ONNX Runtime's release alone.

    Args:
        bundle: Bundle; the engine is written to its ``engines/<key>``.
        precision: Precision of the graphs, or its name; None selects that of
            :func:`~vdmrt.bundle.choose_precision` for ONNX Runtime.
        options: The provider, and options of the optimization; None selects every default.
        force: Whether to build an engine that exists already.
        progress: Called with lines of text, from any thread.

    Raises:
        BackendError: ONNX Runtime is not installed or too old, or refuses a graph.
        BundleError: The bundle does not contain that precision, or a file of it was altered.
        EngineError: onnx is not installed, or the engine cannot be written.
        KeyboardInterrupt: The build was interrupted.
        ValueError: ``precision`` is not a precision's name.
    """
    wanted = None if precision is None else Precision.parse(precision)
    module = load_onnxruntime()
    options = options or ModelOptions()
    machine = describe_machine(module, options.provider)
    chosen = choose_precision(bundle, wanted, machine.backend)
    graphs = stage_graphs(bundle, chosen)
    key = model_key(bundle, chosen, machine, options)
    found = None if force else find_built(bundle, key, machine)
    if found is not None:
        return found
    need_packages("calibrate", _TASK, "onnx", "onnx_ir", fail=EngineError)
    verify_graphs(bundle, graphs)

    def build(work: Path) -> EngineManifest:
        weights = EngineWeights(work, f"engines/{key}")
        plans = {}
        for stage, graph in graphs.items():
            started = time.monotonic()
            path, forms = _build_model(module, bundle, stage, graph, work, weights, options, progress)
            plans[stage] = _plan(graph, path, forms, time.monotonic() - started)
            done = "optimized by" if options.provider == "cpu" else "rewritten for CUDA in"
            progress(f"{stage}: {done} ONNX Runtime {machine.onnxruntime} in {plans[stage].build_seconds:.1f} s")
            for line in describe_forms(forms):
                progress(f"{stage}: {line}")
        own = weights.finish()
        if options.provider == "cpu":
            progress(f"weights that the optimizer changed: {format_nbytes(own.nbytes if own else 0)}")
        return _manifest(key, chosen, machine, options, plans, own)

    return place_engine(bundle, key, machine, build, force=force, progress=progress)


def load_onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises:
        BackendError: It is not installed, is installed twice, does not load or is too old.
    """
    module = open_onnxruntime(_TASK, "calibrate")
    check_version(str(module.__version__))
    return module


def check_version(version: str) -> None:
    """Check that a release can run the engines.

    Raises:
        BackendError: The release is too old.
    """
    if version_numbers(version) < _OLDEST:
        raise BackendError(
            f"engines need ONNX Runtime {'.'.join(map(str, _OLDEST))} or newer, found {version}; "
            "pip install -U onnxruntime, or run the bundle without an engine"
        )


def model_key(bundle: Bundle, precision: Precision, machine: Machine, options: ModelOptions) -> str:
    """Return the name of the engine's folder."""
    return engine_key(precision, stage_graphs(bundle, precision), machine, options.to_manifest())


def _build_model(
    module: Any,
    bundle: Bundle,
    stage: str,
    graph: Graph,
    work: Path,
    weights: EngineWeights,
    options: ModelOptions,
    progress: Progress,
) -> tuple[Path, Forms]:
    """Write a stage's graph into ``work`` and its changed weights into ``weights``."""
    model, forms = _read(bundle, stage, graph, options.provider)
    if options.provider == "cpu":
        folder, raw = bundle.locate(graph.file).parent, work / f"{stage}.raw.onnx"
        if graph.weights is not None:
            weights.know(model, graph.weights.file, bundle.locate(graph.weights))
        _save_optimized(module, model, folder, raw, graph, stage, options, progress)
        model = _take_optimized(raw, weights)
    elif graph.weights is not None:
        point_at(model, graph.weights.file)
    path = work / f"{stage}.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path, forms


def _read(bundle: Bundle, stage: str, graph: Graph, provider: ProviderName) -> tuple[onnx.ModelProto, Forms]:
    """Return a rewritten graph; weights stay in their file beside the exported one."""
    import onnx_ir

    from .cpu_forms import CPU_FORMS
    from .cuda_forms import CUDA_FORMS
    from .rewrites import rewrite

    model = onnx_ir.load(bundle.locate(graph.file))
    forms = rewrite(model, CPU_FORMS if provider == "cpu" else CUDA_FORMS)
    check_forms(stage, graph, forms)
    return onnx_ir.to_proto(model), forms


def _take_optimized(path: Path, weights: EngineWeights) -> onnx.ModelProto:
    """Read a graph that ONNX Runtime saved, move its weights into the shared file, and remove what it wrote."""
    import onnx

    optimized = onnx.load(str(path), load_external_data=False)
    weights.share(optimized)
    path.unlink()
    path.with_suffix(".bin").unlink(missing_ok=True)
    return optimized


def _save_optimized(
    module: Any,
    model: onnx.ModelProto,
    folder: Path,
    path: Path,
    graph: Graph,
    stage: str,
    options: ModelOptions,
    progress: Progress,
) -> None:
    """Save the graph as optimized by ONNX Runtime, with all weights in a file beside it."""
    settings = module.SessionOptions()
    settings.graph_optimization_level = getattr(module.GraphOptimizationLevel, f"ORT_ENABLE_{options.level.upper()}")
    settings.optimized_model_filepath = str(path)
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # no warning that the graph is for this machine only
    settings.add_session_config_entry(_FOLDER, str(folder))
    settings.add_session_config_entry(_WEIGHTS, path.with_suffix(".bin").name)
    if graph.quantized == FP8:
        settings.add_session_config_entry("session.disable_quant_qdq", "1")

    def run() -> None:
        module.InferenceSession(model.SerializeToString(), settings, providers=[PROVIDERS["cpu"]])

    try:
        run_beside(run, stage, progress, Cancelled())
    except Exception as error:  # its exceptions share no base class
        if path.stem in str(error):  # the output file could not be written
            raise EngineError(
                f"{path.parent.parent}: the engine cannot be written: is the disk full? ONNX Runtime reports {error}; "
                "nothing was left"
            ) from error
        raise BackendError(f"{stage}: ONNX Runtime {module.__version__} does not optimize it: {error}") from error


def _plan(graph: Graph, path: Path, forms: Forms, seconds: float) -> Plan:
    return Plan(
        file=Artifact(path.name, sha256_of(path), path.stat().st_size),
        graph_sha256=graph.file.sha256,
        weights_sha256=graph.weights.sha256 if graph.weights else None,
        inputs=graph.inputs,
        outputs=graph.outputs,
        scratch_nbytes=0,
        build_seconds=round(seconds, 2),
        forms=forms,
    )


def _manifest(
    key: str,
    precision: Precision,
    machine: Machine,
    options: ModelOptions,
    plans: Mapping[str, Plan],
    weights: Artifact | None,
) -> EngineManifest:
    return EngineManifest(
        key=key,
        backend="onnxruntime",
        precision=precision,
        machine=machine,
        plans={stage: dataclasses.replace(plan, weights=weights) for stage, plan in plans.items()},
        options=options.to_manifest(),
        created=utc_now(),
    )
