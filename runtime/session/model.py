"""Models: a loaded bundle, the programs that its sessions share, and the lanes that they run on."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from ...bundle import Role, Stage
from ..backends.stage_sources import StageSources
from ..lane.lane import Lane
from ..lane.prompt import make_prompt, read_null_text
from ..sampling.integers import whole
from .codec import PictureCodec
from .generation import Generation
from .session import Session
from .session_defaults import checked_seed, complete_guidance, complete_settings, make_table
from .session_pool import SessionPool
from .snapshot import Snapshot, SnapshotForm, read_snapshot

if TYPE_CHECKING:
    from ...bundle import Bundle, Engine, Manifest, Precision
    from ..backends.backend import Backend, Program
    from ..device.array_input import ArrayInput
    from ..lane.prompt import Prompt
    from .session_settings import SessionSettings

__all__ = ["Model"]


class Model:
    """A loaded bundle. Lanes share its programs; each has its own cache. All attributes are read-only."""

    __slots__ = (
        "__weakref__",
        "_backend",
        "_bundle",
        "_codec",
        "_engine",
        "_graphs",
        "_null_text",
        "_pool",
        "_precision",
        "_programs",
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
        """Load every stage; :func:`load` is the usual entry point.

        Args:
            bundle: Bundle to run.
            backend: Backend that runs it; closed with the model.
            precision: Precision of the graphs.
            sources: Files of the stages; None loads the exported graphs.
            cuda_graph: Whether to capture a denoising step on a GPU once and replay it.

        Raises:
            BundleError: The bundle lacks the precision, or a file differs from its recorded hash.
            EngineError: A file of the engine differs from its recorded hash.
            BackendError: The backend refuses a graph.
        """
        sources = sources or StageSources(bundle, precision)
        self._bundle = bundle
        self._engine = sources.engine
        self._backend = backend
        self._precision, self._graphs = precision, bundle.graphs(precision)
        self._programs: dict[str, Program] = {}
        self._codec: PictureCodec | None = None
        manifest = bundle.manifest
        graphs_id = str(precision), manifest.graphs_sha256(precision)
        self._pool = SessionPool(
            partial(
                Lane,
                backend,
                manifest.geometry,
                self._graphs,
                self._programs,
                cuda_graph=cuda_graph,
                graphs_id=graphs_id,
            )
        )
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
            f"device={self.backend.device_name!r}, sessions={len(self._pool.sessions)}, closed={self._pool.closed})"
        )

    @property
    def bundle(self) -> Bundle:
        """The bundle that was loaded."""
        return self._bundle

    @property
    def precision(self) -> Precision:
        """Precision of the graphs."""
        return self._precision

    @property
    def backend(self) -> Backend:
        """Backend that runs the graphs."""
        return self._backend

    @property
    def engine(self) -> Engine | None:
        """Engine of the plans or optimized graphs; None if the exported graphs run."""
        return self._engine

    def describe(self) -> str:
        """Return backend, device and engine as one line of text."""
        engine = "" if self._engine is None else f", engine {self._engine.manifest.key}"
        return f"{self.backend.describe()}{engine}"

    @property
    def codec(self) -> PictureCodec | None:
        """Codec between pictures and latents, or None."""
        return self._codec

    @property
    def manifest(self) -> Manifest:
        """Manifest of the bundle."""
        return self.bundle.manifest

    @property
    def allocated_nbytes(self) -> int:
        """Bytes of device memory of the lanes: caches, staging, scratch and tensors, without the backend's weights."""
        return self._pool.allocated_nbytes

    def program(self, stage: str) -> Program:
        """Return the loaded graph of "fill" or "denoise"; owned by the model.

        Raises:
            RuntimeError: The model is closed.
        """
        self._pool.check_open()
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
        """Create a session on a free request slot; if none is free, on a new lane.

        Args:
            seed: 0 <= seed < 2**64; None draws a random one, see ``session.seed``.
            sampler: One of :data:`~vdmrt.runtime.sampling.samplers.SAMPLERS`; None uses the bundle's default.
            steps: Denoising steps; None uses the bundle's default.
            guidance: Scale of classifier-free guidance; None uses the bundle's default.
            text: Text embeddings, floating point [tokens, width]; required if the model has text.
            text_mask: 1 for a valid token, [tokens]; None treats all tokens as valid.
            prefix_noise: Training timestep of the noise added to clean frames before they are cached.
            eta: Parameter of the sampler "ddim".
            shift: Parameter of the sampler "flow-euler".
            rollback_chunks: Chunks that :meth:`Session.rollback` can undo. Device memory for what each of them
                overwrites is allocated now; see :attr:`Session.undo_nbytes`.

        Raises:
            TypeError: ``seed``, ``steps``, ``prefix_noise`` or ``rollback_chunks`` is not a whole number.
            ValueError: A number is out of range, or the sampler does not fit the model or the bundle.
            TensorMismatchError: The text's shape differs from the model's, or a value is NaN or Inf.
            DeviceError: A new lane does not fit into memory.
            RuntimeError: The model is closed.
        """
        self._pool.check_open()
        settings = complete_settings(
            self.manifest,
            seed=seed,
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            prefix_noise=prefix_noise,
            eta=eta,
            shift=shift,
        )
        prompt = make_prompt(self.manifest.geometry, self._null_text, text, text_mask, self.backend.open_device)
        return self._open_session(settings, prompt, rollback_chunks)

    def restore(
        self, source: Snapshot | str | os.PathLike[str], *, seed: int | None = None, rollback_chunks: int = 0
    ) -> Session:
        """Create a session from a snapshot; it continues exactly as the snapshot's session does.

        Args:
            source: Snapshot from :meth:`Session.snapshot`, or the file that it was saved to.
            seed: Seed of the noise from now on; None uses the snapshot's.
            rollback_chunks: As for :meth:`session`; the log is empty at first.

        Raises:
            SessionError: The file is missing, truncated or not a snapshot, or its graphs or sizes differ.
            TypeError: ``seed`` or ``rollback_chunks`` is not a whole number.
            ValueError: ``seed`` or a setting is out of range.
            DeviceError: A new lane does not fit into memory.
            RuntimeError: The model is closed.
        """
        self._pool.check_open()
        seed = None if seed is None else checked_seed(seed)
        digest = self.manifest.graphs_sha256(self.precision)
        form = SnapshotForm.of(self.manifest.geometry, self._graphs[Stage.FILL], str(self.precision), digest)
        snapshot = source if isinstance(source, Snapshot) else read_snapshot(source, form)
        snapshot.check(form, "the snapshot" if isinstance(source, Snapshot) else str(source))
        guidance = complete_guidance(self.manifest, snapshot.settings.guidance)
        settings = replace(snapshot.settings, guidance=guidance, seed=snapshot.settings.seed if seed is None else seed)
        text = [snapshot.tensors[role] for role in (Role.TEXT, Role.TEXT_MASK) if role in form.tensors]
        session = self._open_session(settings, (text[0], text[1]) if text else None, rollback_chunks)
        try:
            session.adopt(snapshot)
        except BaseException:
            session.close()
            raise
        return session

    def warmup(self) -> float:
        """Run every graph in every state of the cache (empty, filling, full and wrapped), and decode once.

        On a GPU the first runs allocate, choose kernels and capture; this call moves that cost out of the first
        chunk.

        Returns:
            Elapsed time in seconds.

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
        """Close all sessions and free all memory, unless a session is in use. Closing twice is allowed.

        Raises:
            SessionError: A session is being created, or is in use in another thread or by a caller of this call, as in
                an ``on_step`` callback. Everything stays open and usable.
            DeviceError: A call failed; everything was released nevertheless.
        """
        self._pool.close(self._unload)

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

    def _open_session(self, settings: SessionSettings, prompt: Prompt | None, rollback_chunks: int) -> Session:
        """Lease a request slot and set it up."""
        if (rollback_chunks := whole("rollback_chunks", rollback_chunks)) < 0:
            raise ValueError(f"rollback_chunks must be at least 0, got {rollback_chunks}")
        table = make_table(self.manifest, settings)
        rows = table.padded(self.manifest.geometry.max_steps)
        level = None if settings.prefix_noise is None else table.prefix_noise(settings.prefix_noise)
        with self._pool.leased() as (lane, request):
            lane.clear(request)
            lane.conditioning.set_table(request, *rows)
            if prompt is not None:
                lane.conditioning.set_text(request, prompt)
            if settings.guidance is not None:
                lane.conditioning.set_guidance(request, settings.guidance)
            session = Session(
                Generation(
                    lane,
                    request,
                    table,
                    settings,
                    prefix_noise=level,
                    codec=self._codec,
                    rollback_chunks=rollback_chunks,
                    on_close=self._pool.remove,
                )
            )
            self._pool.sessions.append(session)
        return session
