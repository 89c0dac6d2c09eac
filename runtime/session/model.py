"""A loaded bundle: programs that sessions share, and the lanes they run on."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np

from ...bundle import Bundle, Engine, Manifest, Precision, Stage, open_bundle
from ...errors import SessionError
from ..backends.backend import Backend, Program
from ..backends.load_options import BACKENDS, LoadOptions
from ..backends.resolution import Resolution, open_backend, resolve
from ..backends.stage_sources import StageSources
from ..device.array_input import ArrayInput
from ..sampling.integers import whole
from ..sampling.samplers import SamplerTable, make_sampler
from ..sampling.schedules import Schedule
from .codec import PictureCodec
from .lane import Lane
from .prompt import Prompt, make_prompt, read_null_text
from .session import Session, close_together
from .session_settings import SessionSettings
from .snapshot import Snapshot, SnapshotForm, read_snapshot

__all__ = ["BACKENDS", "Model", "load", "load_resolved", "open_model"]

_log = logging.getLogger("vdmrt")


def load(
    path: str | os.PathLike[str],
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: Precision | str | None = None,
    threads: int | None = None,
    cuda_graph: bool = True,
    trust_plans: bool = False,
    lean_runtime: str | os.PathLike[str] | None = None,
    use_engine: bool = True,
    verify: bool = True,
) -> Model:
    """Load a bundle.

    Args:
        path: The bundle's folder.
        backend: "auto" or one of :data:`BACKENDS`. "auto" takes TensorRT where the bundle has an engine that fits, else
            ONNX Runtime. What it chose is logged in one line, and why it is not TensorRT on a machine with a GPU.
        device: "cpu", "cuda", "cuda:1" and so on; "auto" takes what the backend runs on.
        precision: Of the graphs, or its name; None takes one that has an engine for this machine: for TensorRT fp16
            before fp32, for ONNX Runtime fp32 before fp16, and the first where none has. What ``vdmrt calibrate`` made
            is named.
        threads: Threads of the CPU provider, at most one for each CPU that this process may use; None takes as many.
        cuda_graph: Whether denoising steps on a GPU are captured once and replayed.
        trust_plans: Whether TensorRT plans may be loaded that this user's own cache did not record building: a plan is
            native code.
        lean_runtime: TensorRT's library for version-compatible plans of another release, as ``libnvinfer_lean.so.10``.
        use_engine: Whether ONNX Runtime's CPU provider runs the graphs of an engine of the bundle that fits; False runs
            the exported ones. TensorRT has engines only.
        verify: Whether every file's SHA-256 is checked first. Lengths are always checked.

    Returns:
        The model; close it, or use it in a ``with``.

    Raises:
        BundleError: The folder is no bundle, of a newer schema, altered, or does not have that precision.
        EngineError: TensorRT was asked for, and no engine of the bundle fits.
        BackendError: The backend is not installed, does not run on the device, or refuses a graph.
        DeviceError: There is no driver, or no GPU of that number.
        ValueError: The backend, the device or the precision is unknown, they do not go together, or a number is out of
            range.
    """
    options = LoadOptions(
        backend=backend,
        device=device,
        precision=None if precision is None else Precision.parse(precision),
        threads=threads,
        cuda_graph=cuda_graph,
        trust_plans=trust_plans,
        lean_runtime=None if lean_runtime is None else Path(lean_runtime),
        use_engine=use_engine,
    )
    return open_model(path, options, verify=verify)


def open_model(path: str | os.PathLike[str], options: LoadOptions, *, verify: bool = True) -> Model:
    """Load a bundle as the options say; see :func:`load`."""
    bundle = open_bundle(path)
    if options.precision is not None:
        bundle.graphs(options.precision)
    if verify:
        bundle.verify()
    return load_resolved(bundle, resolve(bundle, options), options, verify=verify)


def load_resolved(bundle: Bundle, resolution: Resolution, options: LoadOptions, *, verify: bool = True) -> Model:
    """Load a bundle on what was decided; ``verify`` is of the engine's weights."""
    for warning in resolution.warnings:
        _log.warning("%s", warning)
    backend, sources = open_backend(resolution, options), resolution.sources(bundle, options, verify=verify)
    try:
        model = Model(bundle, backend, resolution.precision, sources=sources, cuda_graph=options.cuda_graph)
        _log.info("backend %s, %s: %s", backend.name, model.precision, model.describe())
        return model
    except BaseException:
        backend.close()
        raise


class Model:
    """A loaded bundle. Lanes share its programs only; each has its own cache. Nothing of it can be set."""

    __slots__ = (
        "__weakref__",
        "_backend",
        "_bundle",
        "_closed",
        "_codec",
        "_cuda_graph",
        "_engine",
        "_graphs",
        "_lanes",
        "_lock",
        "_null_text",
        "_opening",
        "_precision",
        "_programs",
        "_sessions",
    )

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        precision: Precision,
        *,
        sources: StageSources | None = None,
        cuda_graph: bool = True,
    ) -> None:
        """Load every stage; :func:`load` is the usual way here.

        Args:
            bundle: What is run.
            backend: What runs it; closed with the model.
            precision: Of the graphs.
            sources: Of the stages; None loads the graphs as they were exported.
            cuda_graph: Whether denoising steps on a GPU are captured once and replayed.

        Raises:
            BundleError: The bundle does not have the precision, or a file of it is not what was recorded.
            EngineError: A file of the engine is not what was recorded.
            BackendError: The backend refuses a graph.
        """
        sources = sources or StageSources(bundle, precision)
        self._bundle = bundle
        self._engine = sources.engine
        self._backend = backend
        self._precision, self._graphs = precision, bundle.graphs(precision)
        self._cuda_graph = cuda_graph
        self._lanes: list[Lane] = []
        self._sessions: list[Session] = []
        self._programs: dict[str, Program] = {}
        self._codec: PictureCodec | None = None
        self._closed = False
        # Of what follows and of the lists above. Never held while a lane is waited for, because a callback that a
        # running lane calls may want it.
        self._lock = threading.Lock()
        self._opening: set[object] = set()  # a token for each session that is being made
        manifest = bundle.manifest
        try:
            for stage in (Stage.FILL, Stage.DENOISE):
                self._programs[stage] = backend.load(sources.read(stage))
            self._codec = PictureCodec(backend, sources, manifest) if manifest.codec else None
            self._null_text = read_null_text(bundle)
        except BaseException:
            self._unload()
            raise

    def __repr__(self) -> str:
        return (
            f"Model({self.manifest.name!r}, precision='{self.precision}', backend={self.backend.name!r}, "
            f"device={self.backend.device_name!r}, sessions={len(self._sessions)}, closed={self._closed})"
        )

    @property
    def bundle(self) -> Bundle:
        """What was loaded."""
        return self._bundle

    @property
    def precision(self) -> Precision:
        """Of the graphs that run."""
        return self._precision

    @property
    def backend(self) -> Backend:
        """What runs them."""
        return self._backend

    @property
    def engine(self) -> Engine | None:
        """The engine whose plans or optimized graphs run; None where those that were exported do."""
        return self._engine

    def describe(self) -> str:
        """Return what runs where, and from which engine, in one line."""
        engine = "" if self._engine is None else f", engine {self._engine.manifest.key}"
        return f"{self.backend.describe()}{engine}"

    @property
    def codec(self) -> PictureCodec | None:
        """Between pictures and latents, or None."""
        return self._codec

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def allocated_nbytes(self) -> int:
        """Bytes of device memory that the lanes hold: caches, staging, scratch and tensors; not a backend's weights."""
        devices = {id(lane.device): lane.device for lane in self._lanes}
        return sum(device.allocated_nbytes for device in devices.values())

    def program(self, stage: str) -> Program:
        """Return the loaded graph of "fill" or "denoise"; it stays the model's.

        Raises:
            RuntimeError: The model is closed.
        """
        self._check_open()
        return self._programs[stage]

    def session(
        self,
        *,
        seed: int | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        text: ArrayInput | None = None,
        text_mask: ArrayInput | None = None,
        prefix_noise: int | None = None,
        eta: float = 0.0,
        shift: float = 1.0,
        rollback_chunks: int = 0,
    ) -> Session:
        """Make a session on a free request slot; where none is free, on a new lane.

        Args:
            seed: 0 <= seed < 2**64; None takes a random one, which stands in ``session.seed``.
            sampler: One of :data:`~vdmrt.runtime.sampling.samplers.SAMPLERS`; None takes the bundle's default.
            steps: Denoising steps; None takes the bundle's default.
            guidance: Scale of classifier-free guidance; None takes the bundle's default.
            text: Text embeddings, floating point [tokens, width]; wanted where the model has text.
            text_mask: 1 for a token that counts, [tokens]; None counts all of them.
            prefix_noise: Training timestep to whose noise level clean frames are perturbed before they are cached.
            eta: Of the sampler "ddim".
            shift: Of the sampler "flow-euler".
            rollback_chunks: Chunks that :meth:`Session.rollback` can take back. For each the session keeps what it
                overwrote, on the device and allocated now; see :attr:`Session.undo_nbytes`.

        Raises:
            TypeError: ``seed``, ``steps``, ``prefix_noise`` or ``rollback_chunks`` is not a whole number.
            ValueError: A number is out of range, or the sampler does not fit the model or the bundle.
            TensorMismatchError: The text's shape or values are not what the model takes.
            DeviceError: A new lane does not fit into memory.
            RuntimeError: The model is closed.
        """
        self._check_open()
        seed = secrets.randbits(64) if seed is None else _checked_seed(seed)
        defaults = self.manifest.sampler
        settings = SessionSettings(
            seed,
            sampler or defaults.name,
            defaults.steps if steps is None else whole("steps", steps),
            self._guidance(guidance),
            None if prefix_noise is None else whole("prefix_noise", prefix_noise),
            eta,
            shift,
        )
        return self._open_session(settings, self._prompt(text, text_mask), rollback_chunks)

    def restore(
        self, source: Snapshot | str | os.PathLike[str], *, seed: int | None = None, rollback_chunks: int = 0
    ) -> Session:
        """Make a session that stands where a snapshot was taken, and goes on as that session did.

        Args:
            source: What :meth:`Session.snapshot` returned, or the file that it was saved to.
            seed: Of what is drawn from now on; None goes on with the snapshot's.
            rollback_chunks: As for :meth:`session`; the log begins empty.

        Raises:
            SessionError: The file is missing, truncated or foreign, or was taken of other graphs or sizes.
            TypeError: ``seed`` or ``rollback_chunks`` is not a whole number.
            ValueError: ``seed`` or a setting is out of range.
            DeviceError: A new lane does not fit into memory.
            RuntimeError: The model is closed.
        """
        self._check_open()
        seed = None if seed is None else _checked_seed(seed)
        digest = self.manifest.graphs_sha256(self.precision)
        form = SnapshotForm.of(self.manifest.geometry, self._graphs["fill"], str(self.precision), digest)
        snapshot = source if isinstance(source, Snapshot) else read_snapshot(source, form)
        snapshot.check(form, "the snapshot" if isinstance(source, Snapshot) else str(source))
        guidance = self._guidance(snapshot.settings.guidance)
        settings = replace(snapshot.settings, guidance=guidance, seed=snapshot.settings.seed if seed is None else seed)
        prompt = (snapshot.tensors["text"], snapshot.tensors["text_mask"]) if "text" in form.tensors else None
        session = self._open_session(settings, prompt, rollback_chunks)
        try:
            session.adopt(snapshot)
        except BaseException:
            session.close()
            raise
        return session

    def warmup(self) -> float:
        """Run everything once, in every state of the cache: empty, filling, full and wrapped; decode once.

        The first runs on a GPU allocate, choose kernels and capture; after this call none of it is left for the first
        chunk that somebody waits for.

        Returns:
            Seconds.

        Raises:
            DeviceError: A run failed, or memory is short.
        """
        started = time.perf_counter()
        g = self.manifest.geometry
        text = np.zeros((1, g.text_width), np.float32) if g.text_width else None
        chunks = g.slots // g.chunk_frames + 2
        if g.positions.limit is not None:
            chunks = min(chunks, (g.positions.limit - 1) // g.chunk_frames)
        with self.session(seed=0, steps=min(2, g.max_steps), text=text) as session:
            session.start(np.zeros((1, *g.latent_shape), np.float32))
            made = [chunk.latents for chunk in session.stream(max(1, chunks))]
        if self.codec is not None:
            self.codec.decode(made[-1])
        return time.perf_counter() - started

    def close(self) -> None:
        """Close all sessions and free all memory; or nothing, where a session is in use. Closing twice is allowed.

        Raises:
            SessionError: A session is in use, in another thread or by the call that this one comes from, as in an
                ``on_step`` callback, or is being made. Everything stays open and usable.
            DeviceError: A call failed; everything was given back all the same.
        """
        with self._lock:
            if self._opening:
                raise SessionError("the model stays open: a session is being made in another thread; close it later")
            close_together(list(self._sessions), self._close_lanes)

    def _close_lanes(self) -> None:
        """Close all lanes and what they share; their sessions are closed."""
        self._closed = True
        with ExitStack() as undo:
            undo.callback(self._unload)
            while self._lanes:
                undo.callback(self._lanes.pop().close)

    def _unload(self) -> None:
        with ExitStack() as undo:
            undo.callback(self.backend.close)
            while self._programs:
                undo.callback(self._programs.popitem()[1].close)
            if self._codec is not None:
                undo.callback(self._codec.close)

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the model is closed; load it again")

    def _make_table(self, sampler: str, steps: int, eta: float, shift: float) -> SamplerTable:
        manifest = self.manifest
        table = make_sampler(
            sampler,
            steps=steps,
            prediction=manifest.prediction,
            schedule=Schedule(**vars(manifest.schedule)),
            learned_variance=manifest.geometry.learned_variance,
            eta=eta,
            shift=shift,
        )
        if table.stochastic and not manifest.geometry.stochastic:
            raise ValueError(
                f"the bundle was exported for deterministic samplers, and {table.name!r} takes noise; "
                "choose ddim or dpm-solver++, or export again without --deterministic"
            )
        return table

    def _open_session(
        self,
        settings: SessionSettings,
        prompt: Prompt | None,
        rollback_chunks: int,
    ) -> Session:
        """Lease a request slot and set it up."""
        if (rollback_chunks := whole("rollback_chunks", rollback_chunks)) < 0:
            raise ValueError(f"rollback_chunks must be at least 0, got {rollback_chunks}")
        table = self._make_table(settings.sampler, settings.steps, settings.eta, settings.shift)
        rows = table.padded(self.manifest.geometry.max_steps)
        level = None if settings.prefix_noise is None else table.prefix_noise(settings.prefix_noise)
        with self._leased() as (lane, request):
            lane.clear(request)
            lane.set_table(request, *rows)
            if prompt is not None:
                lane.set_text(request, *prompt)
            if settings.guidance is not None:
                lane.set_guidance(request, settings.guidance)
            session = Session(
                lane,
                request,
                table,
                settings,
                prefix_noise=level,
                codec=self._codec,
                rollback_chunks=rollback_chunks,
                on_close=self._sessions.remove,
            )
            self._sessions.append(session)
        return session

    @contextmanager
    def _leased(self) -> Iterator[tuple[Lane, int]]:
        """Lease a request slot for a session that is made in the block; the model stays open until then.

        The slot is given back if the block fails, or is interrupted by a signal anywhere.
        """
        token = object()
        leased: tuple[Lane, int] | None = None
        try:
            with self._lock:
                self._check_open()
                self._opening.add(token)
                leased = self._lease()
            yield leased
        except BaseException:
            if leased is not None:
                self._give_back(*leased)
            raise
        finally:
            self._opening.discard(token)  # atomic; waiting for the lock could be interrupted

    def _give_back(self, lane: Lane, request: int) -> None:
        """Undo a lease. If its session was made already, the session does it."""
        for session in list(self._sessions):
            if session.lane is lane and session.request == request:
                return session.close()
        lane.release(request)

    def _lease(self) -> tuple[Lane, int]:
        for lane in self._lanes:
            request = lane.lease()
            if request is not None:
                return lane, request
        lane = Lane(
            self.backend,
            self.manifest.geometry,
            self._graphs,
            self._programs,
            cuda_graph=self._cuda_graph,
            graphs_id=(str(self.precision), self.manifest.graphs_sha256(self.precision)),
        )
        self._lanes.append(lane)
        request = lane.lease()
        assert request is not None, "a new lane has free requests"
        return lane, request

    def _guidance(self, guidance: float | None) -> float | None:
        """Return the scale for the graph's rows, or None where it has none."""
        if self.manifest.geometry.rows_per_request == 2:
            scale = self.manifest.sampler.guidance if guidance is None else guidance
            if not np.isfinite(scale):
                raise ValueError(f"guidance must be finite, got {scale}")
            return scale
        if guidance is not None and guidance != 1.0:
            raise ValueError(f"the bundle has no null rows, so guidance must be 1, got {guidance}")
        return None

    def _prompt(self, text: ArrayInput | None, mask: ArrayInput | None) -> Prompt | None:
        return make_prompt(self.manifest.geometry, self._null_text, text, mask, self.backend.open_device)


def _checked_seed(seed: int) -> int:
    seed = whole("seed", seed)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be 0 <= seed < 2**64, got {seed}")
    return seed
