"""Checks of a built engine: it runs, agrees with ONNX Runtime, and is faster."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle import (
    BACKENDS,
    FP16,
    FP32,
    PROVIDERS,
    Check,
    Stage,
    describe_speed,
    format_count,
    record_checks,
)
from ...errors import EngineError, VdmrtError
from ...runtime.backends.load_options import LoadOptions, gpu_index
from ...runtime.backends.resolution import Resolution
from ...runtime.session.loading import load_resolved, open_model
from ..choose.in_turn import time_in_turn
from ..graph.quantization import quantization_of
from ..observe.rollouts import cache_state, wrapping_chunks
from ..progress import hide_progress
from .forced import TeacherForced

if TYPE_CHECKING:
    from ...bundle import (
        BackendName,
        Bundle,
        Engine,
        Precision,
    )
    from ...runtime.session.model import Model
    from ...runtime.session.session import Session
    from ...runtime.session.snapshot import Snapshot
    from ..progress import Show
    from .forced import Latents

__all__ = ["check_engine"]

_log = logging.getLogger("vdmrt")
# Denoising steps of a chunk, and the work of a CPU in well under a minute.
_STEPS, _QUICK_FLOPS = 4, 2e12
# Relative L2 of each chunk's latents, and of the K and V that its fill writes; quantized products are rounded at other
# places than in ONNX Runtime.
_AGREES, _AGREES_QUANTIZED = {FP32: 1e-3, FP16: 1e-2}, 5e-2


def check_engine(
    bundle: Bundle, engine: Engine, *, full: bool = False, device: str | None = None, show: Show = hide_progress
) -> Engine:
    """Run an engine in its backend, compare it with ONNX Runtime, and write the result into its manifest.

    The engine makes chunks until the cache is full and has wrapped, each from the cache of the exported graphs in ONNX
    Runtime on the CPU, so that errors do not accumulate; latents and the K and V that the fill writes are compared.
    Comparisons that would take minutes are skipped, with a log message; the engine makes the remaining chunks alone, on
    a CPU only where that is quick.

    Args:
        bundle: Bundle of the engine.
        engine: Engine built from it, trusted.
        full: Whether to compare even where that takes minutes.
        device: Device of the engine, such as "cuda:1"; None selects the first GPU, or the CPU for an engine of its
            provider.
        show: Shows the progress.

    Returns:
        The engine with its checks.

    Raises:
        EngineError: It does not run, does not agree, or cannot be compared although ``full`` asks for it; its manifest
            records that, and it is not run again.
    """
    trial = _Trial.of(bundle, engine, device or _device_of(engine), full)
    checks = [*_run(trial, show)]
    if checks[0].passed and bundle.manifest.graphs[trial.precision][Stage.DENOISE].quantized is not None:
        checks += _race(trial, show)
    is_full = trial.is_full and any(check.name == "agrees" for check in checks)
    engine = record_checks(engine, tuple(checks), full=is_full)
    for check in checks:
        if check.required and not check.passed:
            raise EngineError(f"{engine.path}: the engine was built and fails its check '{check.name}': {check.detail}")
    return engine


@dataclass(frozen=True)
class _Trial:
    """Settings of a check.

    Attributes:
        bundle: Bundle of the engine.
        engine: The engine.
        device: Device that it runs on.
        chunks: Autoregressive steps.
        compared: The first ones, which are compared with ONNX Runtime's.
        must_compare: Whether the check fails where ONNX Runtime cannot run the reference.
    """

    bundle: Bundle
    engine: Engine
    device: str
    chunks: int
    compared: int
    must_compare: bool

    @classmethod
    def of(cls, bundle: Bundle, engine: Engine, device: str, full: bool) -> _Trial:
        """Return settings: all if requested, else what a CPU does quickly; a GPU always wraps the cache."""
        graphs, chunks = bundle.manifest.graphs[engine.manifest.precision], wrapping_chunks(bundle.manifest.geometry)
        chunk_flops = graphs[Stage.FILL].flops + _steps(bundle) * graphs[Stage.DENOISE].flops
        compares_all = full or chunks * chunk_flops <= _QUICK_FLOPS
        compared = chunks if compares_all else int(chunk_flops <= _QUICK_FLOPS)
        wraps = compares_all or device != "cpu"
        if not compared:
            _log.info("not compared with ONNX Runtime, which would take minutes; ask for it with --check full")
        elif compared < chunks:
            _log.info("one chunk is compared with ONNX Runtime; --check full compares all %d", chunks)
        if not wraps:
            _log.info("one chunk is run, which does not fill the cache; --check full runs until it has wrapped")
        return cls(bundle, engine, device, chunks if wraps else 1, compared, must_compare=full)

    @property
    def is_full(self) -> bool:
        """Whether every chunk until the cache has wrapped is compared."""
        return self.compared == wrapping_chunks(self.bundle.manifest.geometry)

    @property
    def precision(self) -> Precision:
        """Precision of the graphs."""
        return self.engine.manifest.precision

    @property
    def backend(self) -> BackendName:
        """Name of the backend that runs the engine."""
        return self.engine.manifest.backend

    @property
    def steps(self) -> int:
        """Denoising steps of a chunk."""
        return _steps(self.bundle)

    def session_arguments(self) -> dict[str, Any]:
        """Return the arguments of the sessions."""
        g = self.bundle.manifest.geometry
        text = np.random.default_rng(0).standard_normal((g.text_tokens, g.text_width), np.float32)
        return {"seed": 0, "steps": self.steps, "text": text if g.text_width else None}

    def first(self) -> Latents:
        """Return the latent frame that the rollout begins with."""
        shape = (1, *self.bundle.manifest.geometry.latent_shape)
        return np.random.default_rng(1).standard_normal(shape, np.float32)

    def load(self) -> Model:
        """Load this engine and no other."""
        options = LoadOptions(backend=self.backend, device=self.device)
        gpu = None if self.device == "cpu" else gpu_index(self.device) or 0
        resolution = Resolution(self.backend, gpu, self.precision, self.engine)
        return load_resolved(self.bundle, resolution, options, verify=False)

    def load_alike(self, other: Model) -> Model:
        """Load this engine, or the exported graphs where the other model runs exported graphs."""
        if other.engine is not None:
            return self.load()
        options = LoadOptions(backend=self.backend, device=self.device, precision=self.precision, use_engine=False)
        return open_model(self.bundle.path, options, verify=False)


def _device_of(engine: Engine) -> str:
    manifest = engine.manifest
    on_gpu = BACKENDS[manifest.backend].is_native or manifest.machine.provider == PROVIDERS["cuda"]
    return "cuda" if on_gpu else "cpu"


@dataclass
class _Found:
    """Results of a rollout.

    Attributes:
        states: States of the cache in which a chunk was made.
        step_ms: Times of the engine's denoising steps.
        reference_ms: Times of ONNX Runtime's denoising steps.
        latents: Relative L2 of each compared chunk.
        cache: Relative L2 of the K and V that each fill wrote.
        failure: Why a comparison that was asked for failed; "" otherwise.
    """

    states: dict[str, None] = field(default_factory=dict)
    step_ms: list[float] = field(default_factory=list)
    reference_ms: list[float] = field(default_factory=list)
    latents: list[float] = field(default_factory=list)
    cache: list[float] = field(default_factory=list)
    failure: str = ""


def _run(trial: _Trial, show: Show) -> Iterator[Check]:
    """Yield the checks: whether the engine runs, and how it compares."""
    try:
        with trial.load() as model, show(f"checking with {trial.backend}, denoising steps") as on_progress:
            found = _roll(trial, model, _Steps(on_progress, trial))
    except VdmrtError as error:
        yield Check("runs", False, str(error))
        return
    yield _describe_run(trial, found)
    if found.latents:
        yield from _judge(trial, found)
    elif found.failure:
        yield Check("agrees", False, found.failure)


class _Steps:
    """Counter of the denoising steps of several chunks."""

    def __init__(self, on_progress: Any, trial: _Trial) -> None:
        self._on_progress, self._done, self._total = on_progress, 0, trial.chunks * trial.steps

    def count(self, done: int) -> None:
        """Count one step."""
        self._done += 1
        self._on_progress(self._done, self._total)

    def restart(self) -> None:
        """Count from 0 again."""
        self._done = 0


def _roll(trial: _Trial, model: Model, steps: _Steps) -> _Found:
    """Make the chunks, the first ones compared with ONNX Runtime where it can run them."""
    found = _Found()
    if not trial.compared:
        _roll_alone(trial, model, steps, found)
        return found
    try:
        _compare(trial, model, steps, found)
    except _ReferenceFailed as failed:
        found = _Found()
        if trial.must_compare:
            found.failure = f"ONNX Runtime cannot run the reference: {failed.__cause__}"
        else:
            _log.warning("not compared with ONNX Runtime: %s", failed.__cause__)
        steps.restart()
        _roll_alone(trial, model, steps, found)
    return found


def _roll_alone(trial: _Trial, model: Model, steps: _Steps, found: _Found) -> None:
    with model.session(**trial.session_arguments()) as session:
        session.start(trial.first())
        _continue(session, trial.chunks, steps, found)


def _continue(session: Session, chunks: int, steps: _Steps, found: _Found) -> None:
    """Make chunks with the engine alone."""
    for _ in range(chunks):
        _note_state(session, found)
        found.step_ms += session.step(on_step=steps.count).timings.denoise_ms


class _ReferenceFailed(Exception):
    """ONNX Runtime cannot run the reference; ``__cause__`` is the error."""


def _compare(trial: _Trial, model: Model, steps: _Steps, found: _Found) -> None:
    """Make the first chunks in ONNX Runtime and with the engine, and the remaining ones with the engine alone."""
    with model.session(**trial.session_arguments()) as session:
        with _reference_session(trial) as right:
            scales = quantization_of(trial.bundle, trial.precision).cache
            _follow(trial, right, TeacherForced(model, session, scales), steps, found)
        _continue(session, trial.chunks - trial.compared, steps, found)


@contextmanager
def _reference_session(trial: _Trial) -> Iterator[Session]:
    """Open a session of the exported graphs in ONNX Runtime on the CPU."""
    options = LoadOptions(backend="onnxruntime", device="cpu", precision=trial.precision, use_engine=False)
    with ExitStack() as stack:
        try:
            reference = stack.enter_context(open_model(trial.bundle.path, options, verify=False))
            session = stack.enter_context(reference.session(**trial.session_arguments()))
        except VdmrtError as error:
            raise _ReferenceFailed from error
        yield session


def _follow(trial: _Trial, right: Session, forced: TeacherForced, steps: _Steps, found: _Found) -> None:
    for before, made in _reference_chunks(trial, right, steps, found):
        chunk = forced.make_chunk(before)
        found.step_ms += chunk.timings.denoise_ms
        norm = max(float(np.linalg.norm(made)), 1e-30)
        found.latents.append(float(np.linalg.norm(chunk.latents - made) / norm))
        found.cache.append(forced.cache_error(before, made, right))


def _reference_chunks(
    trial: _Trial, session: Session, steps: _Steps, found: _Found
) -> Iterator[tuple[Snapshot, Latents]]:
    """Yield the reference's snapshot before each chunk, and the chunk's latents."""
    try:
        session.start(trial.first())
        for _ in range(trial.compared):
            _note_state(session, found)
            before = session.snapshot()
            made = session.step(on_step=steps.count)
            found.reference_ms += made.timings.denoise_ms
            yield before, made.latents
    except VdmrtError as error:
        raise _ReferenceFailed from error


def _note_state(session: Session, found: _Found) -> None:
    found.states[cache_state(session.lane.geometry, session.next_latent_frame)] = None


def _describe_run(trial: _Trial, found: _Found) -> Check:
    made = f"{format_count(trial.chunks, 'chunk')} of {format_count(trial.steps, 'denoising step')}"
    milliseconds = statistics.median(found.step_ms)
    return Check("runs", True, f"{made}, cache {', '.join(found.states)}, {milliseconds:.3g} ms a step")


def _judge(trial: _Trial, found: _Found) -> Iterator[Check]:
    bound = _AGREES.get(trial.precision, _AGREES_QUANTIZED)
    latents, cache = np.max(found.latents), np.max(found.cache)  # NaN if any is, which max() loses
    yield Check(
        "agrees",
        bool(latents <= bound and cache <= bound),
        f"relative L2 {latents:.2g} to ONNX Runtime after {format_count(trial.steps, 'step')}, {cache:.2g} of K and V, "
        f"the worst of {format_count(trial.compared, 'chunk')}, wanted {bound:g}",
    )
    ours, theirs = statistics.median(found.step_ms), statistics.median(found.reference_ms)
    yield Check(
        "faster",
        ours < theirs,
        f"{ours:.3g} ms a denoising step, ONNX Runtime here {theirs:.3g} ms",
        required=False,
    )


def _race(trial: _Trial, show: Show) -> list[Check]:
    """Time a quantized engine against a floating point one of the same bundle, alternating denoising steps.

    Where ONNX Runtime has no floating point engine, the exported graphs of both are timed.
    """
    options = LoadOptions(backend=trial.backend, device=trial.device)
    for against in (FP16, FP32):
        if against not in trial.bundle.manifest.graphs:
            continue
        try:
            other = open_model(trial.bundle.path, replace(options, precision=against), verify=False)
        except VdmrtError as error:
            _log.warning("%s was not timed against %s: %s", trial.precision, against, error)
            continue
        with (
            other,
            trial.load_alike(other) as model,
            show(f"timing {trial.precision} against {against}, chunks") as on_progress,
        ):
            found = time_in_turn(model, other, on_progress=on_progress)
        detail = describe_speed(trial.precision, against, found.ratio, found.interval.low, found.interval.high)
        detail += ", engines of both" if other.engine else f", exported graphs of both: {against} has no engine"
        return [Check.of_speed(against, found.interval.low > 1, detail)]
    return []


def _steps(bundle: Bundle) -> int:
    return min(_STEPS, bundle.manifest.geometry.max_steps)
