"""The verification behind ``vdmrt verify``: a precision compared with a reference over long rollouts."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle import (
    FP16,
    FP32,
    Accuracy,
    choose_measured_precision,
    encode,
    format_count,
    open_bundle,
    record_measured,
    write_file,
)
from ...errors import BundleError, CalibrationError
from ...hosts import need_packages
from ...reporting import Figure
from ...runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from ...runtime.backends.resolution import resolve
from ...runtime.cache.window import check_chunks
from ...runtime.sampling.session_arguments import session_arguments
from ...runtime.session.loading import load_resolved, open_model
from ...runtime.session.model import Model
from ..choose.guard import Guard
from ..gates import (
    OVER_FP16,
    judge,
    select_gates,
)
from ..graph.quantization import quantization_of
from ..observe.data import read_set
from ..observe.tap import TappedBackend
from ..progress import hide_progress
from ..scratch import scratch_folder
from .comparison import (
    FIGURES,
    PICTURE_FIGURES,
    Contender,
    check_alike,
    compare_rollouts,
    given_frames,
)
from .reference import reference_bundle
from .report import render_report

if TYPE_CHECKING:
    from ...bundle import (
        Bundle,
        Precision,
    )
    from ..choose.guard import Large
    from ..gates import (
        Judged,
    )
    from ..progress import Show
    from .comparison import (
        Comparison,
        Latents,
    )
    from .request import VerifyRequest

__all__ = ["Verdict", "verify", "write_report"]

_log = logging.getLogger("vdmrt")
# Autoregressive steps of the first rollout that the FP16 guard watches.
_GUARDED_CHUNKS = 2


@dataclass(frozen=True)
class Verdict:
    """Result of a verification.

    Attributes:
        bundle: The bundle's name.
        accuracy: The result as recorded in measured.json.
        gates: The figures that have a limit.
        comparison: Every curve.
        large: Tensors with values too large to be safe in FP16.
        recorded: Whether measured.json could be written.
    """

    bundle: str
    accuracy: Accuracy
    gates: tuple[Judged, ...]
    comparison: Comparison
    large: tuple[Large, ...]
    recorded: bool = True

    @property
    def missed(self) -> tuple[str, ...]:
        """Gates that were missed, in words."""
        return tuple(f"{one.figure}: {one.measured:.4g}, wanted {one.limit}" for one in self.gates if not one.passed)

    @property
    def others(self) -> dict[str, float]:
        """The figures without a limit."""
        gated = {one.figure for one in self.gates}
        return {name: value for name, value in self.accuracy.figures.items() if name not in gated}

    def describe(self) -> str:
        """Return two tables as text: figures with a limit, and the others."""
        one = self.accuracy
        return "\n".join(
            [
                f"{one.precision} against {one.against}, {_format_rollouts(one)}, run by {one.backend}",
                "",
                f"{'figure':24}{'measured':12}limit",
                *(gate.describe() for gate in self.gates),
                "",
                "without a limit",
                *(f"{name:24}{value:.4g}" for name, value in self.others.items()),
                "",
                f"{len(self.missed)} of {format_count(len(self.gates), 'gate')} missed"
                if self.missed
                else "every gate held",
                *(large.describe() for large in self.large),
            ]
        )

    def to_json(self) -> str:
        """Return everything but the frames as JSON."""
        curves = {name: getattr(self.comparison, name) for name in ("free", "teacher", "cache", "free_by_seed")}
        found = {
            "accuracy": encode(self.accuracy),
            "gates": [dataclasses.asdict(one) for one in self.gates],
            "missed": self.missed,
            "recorded": self.recorded,
            "large": [dataclasses.asdict(one) for one in self.large],
            "curves": curves,
        }
        return json.dumps(found, indent=1)


def verify(request: VerifyRequest, *, model: Model | None = None, show: Show = hide_progress) -> Verdict:
    """Compare a precision with its reference, judge the figures, and write the result into measured.json.

    A bundle that cannot be written is measured too; a warning reports that the result is not recorded.

    Args:
        request: The options.
        model: Loaded model, of any backend and device, left open; None loads it by the request. A precision in the
            request must be the model's, and the bundle must be.
        show: Shows the progress of each phase.

    Raises:
        CalibrationError: A gate names no figure, or the bundles are of different models.
        BundleError: A bundle is altered, or does not contain that precision.
        MediaError: The data cannot be read.
        EngineError: TensorRT was requested, and no engine of that precision fits.
        BackendError: The backend is not installed, or does not run on the device.
        ValueError: The precision and its reference are the same graphs, run by the same backend; or the request does
            not fit the model.
    """
    need_packages("calibrate", "vdmrt verify", "onnx", "onnxruntime", fail=CalibrationError)
    if model is not None:
        _check_model(request, model)
    bundle = open_bundle(request.bundle) if model is None else model.bundle
    precision = choose_measured_precision(bundle, request.precision) if model is None else model.precision
    other = bundle if request.against_own else open_bundle(request.against)
    side = _Side(bundle, dataclasses.replace(request, precision=precision), model)
    if side.runs_as_the_reference_does:
        _refuse_same(bundle, precision, other, request.against)
    gates = select_gates(request.gates, _figure_names(bundle, precision, other), request.chunks)
    bundle.verify()
    with_control = any(gate.figure == OVER_FP16 for gate in gates)
    comparison, guard, control = _compare(side, other, with_control, show)
    figures = {**comparison.figures(), "largest-fp16": guard.highest}
    if control is not None:
        figures[OVER_FP16] = figures["drift"] / max(control.figures()["drift"], 1e-12)
    judged = judge(figures, gates)
    accuracy = Accuracy(
        precision=precision,
        against=request.against if request.against_own else Path(request.against).name,
        chunks=request.chunks,
        seeds=request.seeds,
        passed=all(one.passed for one in judged),
        figures=figures,
        graphs_sha256=bundle.manifest.graphs_sha256(precision),
        backend=side.ran_on,
    )
    recorded = _record(bundle, accuracy)
    return Verdict(bundle.manifest.name, accuracy, judged, comparison, tuple(guard.over()), recorded=recorded)


def write_report(path: Path, verdict: Verdict) -> None:
    """Save a verdict as one HTML page, atomically.

    Raises:
        CalibrationError: The page cannot be written.
    """
    accuracy = verdict.accuracy
    facts = {"bundle": verdict.bundle, "precision": str(accuracy.precision), "against": accuracy.against}
    facts |= {"run by": accuracy.backend, "rollouts": _format_rollouts(accuracy)}
    title = f"Accuracy of {accuracy.precision} against {accuracy.against}"
    figures = [Figure(one.figure, one.measured, one.limit, one.passed) for one in verdict.gates]
    figures += [Figure(name, value) for name, value in verdict.others.items()]
    page = render_report(title, facts, verdict.comparison, figures)
    write_file(path, page, fail=CalibrationError)


def _format_rollouts(accuracy: Accuracy) -> str:
    return f"{format_count(accuracy.seeds, 'rollout')} of {format_count(accuracy.chunks, 'chunk')}"


def _check_model(request: VerifyRequest, model: Model) -> None:
    """Raise ValueError where a request does not fit a loaded model."""
    if request.bundle.resolve() != model.bundle.path.resolve():
        raise ValueError(f"the request's bundle must be the loaded model's, {model.bundle.path}, got {request.bundle}")
    if request.precision not in (None, model.precision):
        raise ValueError(
            f"the request's precision must be the loaded model's, {model.precision}, or None, got {request.precision}"
        )
    if OVER_FP16 in (request.gates or {}):
        raise ValueError(
            f"the gate {OVER_FP16} needs the FP16 graphs on the same backend and device, which are not loaded beside a "
            "loaded model; leave out the gate, or the model"
        )


def _refuse_same(bundle: Bundle, precision: Precision, other: Bundle, against: str) -> None:
    """Raise ValueError where a precision and its reference cannot differ."""
    if FP32 not in other.manifest.graphs:
        return  # its FP16 graphs are widened, so the graphs differ
    if other.manifest.graphs_sha256(FP32) == bundle.manifest.graphs_sha256(precision):
        known = ", ".join(map(str, bundle.manifest.graphs))
        raise ValueError(
            f"--precision {precision} and --against {against} are the same graphs, so there is nothing to compare; "
            f"choose another --precision: the bundle has {known}, and vdmrt calibrate adds more"
        )


def _figure_names(bundle: Bundle, precision: Precision, other: Bundle) -> list[str]:
    """Return the names of a comparison's figures."""
    figures = [*FIGURES, "largest-fp16"]
    figures += PICTURE_FIGURES if other.manifest.codec is not None else ()
    return [*figures, *([OVER_FP16] if _has_control(bundle, precision) else [])]


def _has_control(bundle: Bundle, precision: Precision) -> bool:
    """Whether a quantized precision's drift can be compared with that of the bundle's FP16 graphs."""
    return FP16 in bundle.manifest.graphs and precision.is_quantized


def _record(bundle: Bundle, accuracy: Accuracy) -> bool:
    """Write the result into the bundle; if it cannot be written, warn and return False."""
    try:
        record_measured(bundle, accuracy=[accuracy])
    except BundleError as error:
        _log.warning("the result is not recorded in the bundle, and vdmrt run will not mention it: %s", error)
        return False
    return True


class _Side:
    """The measured model: loaded already, or loaded by the request.

    Attributes:
        bundle: Bundle of the model.
        request: Request with the precision.
        ran_on: Backend and device that ran it, in one line; "" before it is loaded.
    """

    def __init__(self, bundle: Bundle, request: VerifyRequest, model: Model | None) -> None:
        """Choose the backend, before anything is loaded."""
        self.bundle, self.request, self._model = bundle, request, model
        self._resolution = resolve(bundle, request) if model is None else None
        self.ran_on = ""

    @property
    def runs_as_the_reference_does(self) -> bool:
        """Whether it runs exported graphs in ONNX Runtime on the CPU."""
        if self._model is not None:
            backend = self._model.backend
            return self._model.engine is None and (backend.name, backend.device_name) == ("onnxruntime", "host")
        found = self._resolution
        return found is not None and (found.backend, found.gpu, found.engine) == ("onnxruntime", None, None)

    @contextmanager
    def opened(self) -> Iterator[Model]:
        """Load the model unless it is loaded; a model loaded here is closed at the end."""
        if self._resolution is None:
            assert self._model is not None, "a model or a resolution"
            loaded: AbstractContextManager[Model] = nullcontext(self._model)
        else:
            loaded = load_resolved(self.bundle, self._resolution, self.request)
        with loaded as model:
            self.ran_on = model.describe()
            yield model


def _compare(side: _Side, other: Bundle, with_control: bool, show: Show) -> tuple[Comparison, Guard, Comparison | None]:
    """Return the comparison, the FP16 guard, and the comparison of the FP16 graphs as control."""
    request, options = side.request, session_arguments(side.request)
    tapped = TappedBackend(OnnxRuntimeBackend(threads=request.threads))
    with ExitStack() as stack:
        folder = stack.enter_context(scratch_folder("verify"))
        wanted = stack.enter_context(Model(reference_bundle(other, folder), tapped, FP32))
        model = stack.enter_context(side.opened())
        clips = list(read_set(request.data, wanted).clips) if request.data else []
        seeds = list(range(request.seeds))
        check_alike(wanted, model)
        guard = Guard(side.bundle, model.precision, folder)
        given = given_frames(wanted, clips, seeds)
        check_chunks(wanted.manifest.geometry, len(given[0]), request.chunks)
        _watch(guard, wanted, tapped, given[0], options)
        contenders = {str(model.precision): Contender(model, quantization_of(side.bundle, model.precision).cache)}
        if with_control:
            alike = dataclasses.replace(request, precision=FP16)
            control = stack.enter_context(open_model(side.bundle.path, alike, verify=False))
            contenders[str(FP16)] = Contender(control, None)
        on_progress = stack.enter_context(show("comparing, denoising steps"))
        found = compare_rollouts(
            wanted,
            contenders,
            given=given,
            seeds=seeds,
            chunks=request.chunks,
            options=options,
            on_progress=on_progress,
        )
    return found[str(model.precision)], guard, found[str(FP16)] if with_control else None


def _watch(guard: Guard, model: Model, tapped: TappedBackend, first: Latents, options: Mapping[str, Any]) -> None:
    """Run the guard on the given latent frames and the first chunks of a rollout."""
    tapped.tap = guard.follow
    try:
        with model.session(seed=0, **options) as session:
            session.start(first)
            for _ in session.stream(_GUARDED_CHUNKS):
                pass
    finally:
        tapped.tap = None
