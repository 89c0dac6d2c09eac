"""A session: one endless generation, chunk by chunk, on one request slot of a lane."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import DeviceError, SessionError
from .._core import Ring
from ..cache.undo_log import UndoLog
from ..cache.window import context_frames, make_window, split_prefix
from ..device.array_input import ArrayInput, host_array
from ..device.arrays import Array, checked_array
from ..device.exclusive import Exclusive
from ..device.stepper import StepTimes
from ..sampling.integers import whole
from ..sampling.noise import Noise, NoiseSource
from ..sampling.sampler_table import PrefixNoise, SamplerTable
from .chunk import Chunk, Observer, Timings, staged
from .codec import PictureCodec
from .lane import FillTimes, Lane
from .session_settings import SessionSettings
from .snapshot import Snapshot
from .streaming import stream_ahead, stream_plainly

__all__ = ["Session", "advance", "close_together"]

Latents = npt.NDArray[np.float32]


class Session:
    """One generation. Made by :meth:`Model.session`; use it in one thread at a time, and close it.

    Attributes:
        observer: Called at each stage, or None. The only attribute that can be set.
    """

    __slots__ = (
        "__weakref__",
        "_chunks",
        "_codec",
        "_exclusive",
        "_lane",
        "_noise",
        "_on_close",
        "_prefix_noise",
        "_request",
        "_ring",
        "_settings",
        "_table",
        "_undo",
        "observer",
    )

    def __init__(
        self,
        lane: Lane,
        request: int,
        table: SamplerTable,
        settings: SessionSettings,
        *,
        prefix_noise: PrefixNoise | None,
        codec: PictureCodec | None,
        rollback_chunks: int,
        on_close: Callable[[Session], None],
    ) -> None:
        g = lane.geometry
        self._table = table
        self._settings = settings
        self._ring = Ring(g.slots)
        self._undo = UndoLog(lane.cache, request, self._ring, rollback_chunks)
        self._noise = NoiseSource(
            settings.seed,
            (g.chunk_frames, *g.latent_shape),
            table.steps,
            lane.noise(request) if table.stochastic else None,
        )
        self.observer: Observer | None = None
        self._lane = lane
        self._request = request
        self._prefix_noise = prefix_noise
        self._codec = codec
        self._on_close = on_close
        self._exclusive = Exclusive()
        self._chunks = 0

    def __repr__(self) -> str:
        return (
            f"Session(seed={self.seed}, sampler={self.table.name!r}, steps={self.table.steps}, "
            f"next_latent_frame={self.next_latent_frame}, closed={self.closed})"
        )

    @property
    def table(self) -> SamplerTable:
        """The sampler."""
        return self._table

    @property
    def settings(self) -> SessionSettings:
        """What it was asked for."""
        return self._settings

    @property
    def seed(self) -> int:
        """What all noise is drawn from."""
        return self._noise.seed

    @property
    def lane(self) -> Lane:
        """The lane whose request slot this session leases."""
        return self._lane

    @property
    def request(self) -> int:
        """Number of that request slot."""
        return self._request

    @property
    def next_latent_frame(self) -> int:
        """Absolute number of the next latent frame; the given ones count."""
        return self._ring.written

    @property
    def undo_nbytes(self) -> int:
        """Bytes of device memory of the log that ``rollback_chunks`` keeps, beside the lane's cache."""
        return self._undo.nbytes

    @property
    def closed(self) -> bool:
        """Whether the session was closed, by its user or by a failure."""
        return self._exclusive.closed

    def start(self, first: ArrayInput, *, noise: Noise | None = None) -> None:
        """Begin a generation after given frames, forgetting any earlier one.

        Args:
            first: Latents, floating point [n, c, h, w], or pictures, uint8 [n, height, width, 3], where the bundle has
                a codec, of the codec's size (see :func:`~vdmrt.media.fit_pictures`); 1 <= n <= slots. Of the host,
                or by DLPack or ``__cuda_array_interface__`` of the GPU that the session is on. Copied.
            noise: ``prefix`` to use instead of drawn numbers.

        Raises:
            TensorMismatchError: Shape, dtype or values are not what the model takes.
            SessionError: More frames than slots, pictures without a codec, or the session is in use elsewhere.
            RuntimeError: The session is closed.
        """
        with self._used():
            latents = self._given_latents(self._host_array("first", first))
            with self._lane.lock:
                self._forget()
                self._extend(latents, noise)
                self._undo.clear()  # what was given first is where a session begins

    def extend(self, frames: ArrayInput, *, noise: Noise | None = None) -> None:
        """Go on with given frames instead of generated ones: they enter the cache after those that are there.

        Args:
            frames: As ``first`` of :meth:`start`.
            noise: ``prefix`` to use instead of drawn numbers.

        Raises:
            TensorMismatchError: Shape, dtype or values are not what the model takes.
            SessionError: As :meth:`start`, or the session was not started.
            RuntimeError: The session is closed.
        """
        with self._used():
            self._check_started()
            latents = self._given_latents(self._host_array("frames", frames))
            with self._lane.lock:
                self._extend(latents, noise)

    def step(self, *, noise: Noise | None = None, on_step: Callable[[int], None] | None = None) -> Chunk:
        """Make one chunk: all its denoising steps, then the cache fill.

        Args:
            noise: Random numbers to use instead of drawn ones.
            on_step: Called after each denoising step with the number done; what it raises cancels the chunk and
                leaves the session where it was.

        Raises:
            SessionError: Not started, absolute positions at their end, or in use in another thread.
            TensorMismatchError: Given noise is not what the model takes.
            RuntimeError: The session is closed.
        """
        return advance([self], noise=[noise], on_step=on_step)[0]

    def stream(
        self, chunks: int | None = None, *, on_step: Callable[[int], None] | None = None, ahead: bool = False
    ) -> Generator[Chunk, None, None]:
        """Yield ``chunks`` chunks, or chunks without end; see :meth:`step`.

        Args:
            chunks: How many; None for no end.
            on_step: As for :meth:`step`; called in the thread that makes the chunk.
            ahead: Whether the next chunk is already being made, in a thread, while the caller uses the one it got:
                on a GPU its decoding then overlaps the next denoising. The session is a chunk further than what was
                yielded; closing the iterator cancels the chunk under way.

        Raises:
            TypeError: ``chunks`` is not a whole number.
            ValueError: ``chunks`` is not positive.
        """
        if chunks is not None and whole("chunks", chunks) < 1:
            raise ValueError(f"chunks must be at least 1, got {chunks}")
        make = stream_ahead if ahead else stream_plainly
        yield from make(self.step, chunks, on_step)

    def rollback(self, chunks: int = 1) -> None:
        """Take back the last chunks: cache, context and position are what they were before them, bit for bit.

        Each fill of the cache counts: a step is one, :meth:`extend` one for each chunk of given frames or part of one.
        Made anew, the chunks come out as they did, unless something else is given.

        Args:
            chunks: How many; at most ``rollback_chunks`` of :meth:`Model.session`.

        Raises:
            TypeError: ``chunks`` is not a whole number.
            ValueError: ``chunks`` is not positive.
            SessionError: There are not that many in the log, or the session is in use elsewhere.
            DeviceError: A copy failed; the session is closed.
            RuntimeError: The session is closed.
        """
        with self._used(), self._lane.lock:
            try:
                self._ring, self._chunks = self._undo.undo(whole("chunks", chunks))
                self._lane.device.synchronize()
            except (DeviceError, KeyboardInterrupt):
                self._close("a rollback was interrupted and the session was closed")
                raise

    def reset(self) -> None:
        """Forget everything but the settings; :meth:`start` begins anew.

        Raises:
            SessionError: The session is in use elsewhere.
            RuntimeError: The session is closed.
        """
        with self._used(), self._lane.lock:
            self._forget()

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state, for :meth:`Model.restore`: to go on later, or in two ways from here.

        Raises:
            SessionError: The session was not started, or is in use elsewhere.
            RuntimeError: The session is closed.
        """
        with self._used(), self._lane.lock:
            self._check_started()
            lane, request = self._lane, self._request
            tensors = {"cache": lane.cache.read(request), **lane.text(request)}
            if lane.cache.has_context:
                tensors["context"] = lane.cache.read_context(request)
            precision, graphs_sha256 = lane.graphs_id
            return Snapshot(precision, graphs_sha256, self._ring.written, self._chunks, self.settings, tensors)

    def adopt(self, snapshot: Snapshot) -> None:
        """Stand where a snapshot was taken, which was checked to fit; :meth:`Model.restore` calls it.

        Raises:
            DeviceError: A copy failed; the session is closed.
        """
        with self._used(), self._lane.lock:
            self._forget()
            self._ring = Ring(self._ring.slots, sinks=self._ring.sinks, written=snapshot.written)
            self._chunks = snapshot.chunks
            cache = snapshot.tensors["cache"].copy()
            cache[:, :, :, :, self._ring.visible :] = 0  # 0 × NaN is NaN
            try:
                self._lane.cache.write(self._request, cache, snapshot.tensors.get("context"))
            except BaseException:
                self._close("restoring was interrupted and the session was closed")
                raise

    def cache(self) -> tuple[Array, list[int]]:
        """Return a copy of the KV cache and the latent frame in each slot, -1 for an empty one.

        Returns:
            Cache [L, 2 (K, V), rows, S·H, K slots, d] in its own dtype, FP8 as bytes of uint8, and the frames [K].
        """
        with self._used():
            frames = [self._ring.frame(slot) for slot in range(self._ring.slots)]
            return self._lane.cache.read(self._request), frames

    def close(self) -> None:
        """Give the request slot back. Closing twice is allowed.

        Raises:
            SessionError: The session is in use, in another thread or by the call that this one comes from, as in an
                ``on_step`` callback. It stays open.
        """
        if not self.closed:
            with self._exclusive.held():
                self._close("the session was closed")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _used(self) -> AbstractContextManager[None]:
        return self._exclusive.used()

    def _close(self, reason: str, remedy: str = "make another with model.session()") -> None:
        if self._exclusive.close(f"{reason}; {remedy}"):
            with ExitStack() as undo:  # all of it, whatever fails
                undo.callback(self._on_close, self)
                undo.callback(self._lane.release, self._request)
                undo.callback(self._undo.close)
                undo.callback(self._noise.close)

    def _forget(self) -> None:
        self._lane.clear(self._request)
        self._ring.reset()
        self._undo.clear()
        self._chunks = 0

    def _host_array(self, name: str, value: Any) -> Array:
        return host_array(name, value, lambda: self._lane.device)

    def _given_latents(self, given: npt.NDArray[Any]) -> Latents:
        g = self._lane.geometry
        if given.dtype == np.uint8:
            if self._codec is None:
                raise SessionError("the bundle has no codec and takes no pictures; give latents [n, c, h, w]")
            with staged(self.observer, "encode"):
                given = self._codec.encode(given)
        latents = checked_array("latents", given, (None, *g.latent_shape), "n, c, h, w")
        if not 1 <= len(latents) <= g.slots:
            raise SessionError(f"the cache holds 1 to {g.slots} given latent frames, got {len(latents)}")
        return latents

    def _extend(self, latents: Latents, noise: Noise | None) -> None:
        perturbed = self._perturb(latents, self._ring.written, noise)
        for begin, count in split_prefix(len(latents), self._lane.geometry.chunk_frames):
            self._cache(perturbed[begin : begin + count])

    def _check_started(self) -> None:
        if self._ring.written == 0:
            raise SessionError("the session has no frames to go on from; call start(first_frames) first")

    def _begin(self, noise: Noise) -> float:
        """Set the lane's tensors for the next chunk; return the milliseconds that drawing took."""
        started = time.perf_counter()
        g, first = self._lane.geometry, self._ring.written
        window = make_window(g, self._ring, g.chunk_frames)
        wants_none = noise.initial is not None and (noise.steps is not None or not self.table.stochastic)
        initial = self._noise.blank() if wants_none else self._noise.chunk(first)
        self._take_given(noise, initial)
        self._lane.begin(
            self._request, window, initial=initial, noise_steps=self.table.steps if self.table.stochastic else 0
        )
        noise_ms = (time.perf_counter() - started) * 1e3
        if not self._lane.device.is_host:
            # What was drawn must have left before it is drawn over; the device then works alone for a while.
            self._lane.device.synchronize()
            self._noise.chunk_ahead(first + g.chunk_frames)
        return noise_ms

    def _take_given(self, noise: Noise, initial: Latents) -> None:
        """Write the caller's numbers over the drawn ones."""
        if noise.initial is not None:
            initial[:] = checked_array(
                "noise.initial", self._host_array("noise.initial", noise.initial), initial.shape, "T, c, h, w"
            )
        if noise.steps is not None and self.table.stochastic:
            shape = (self.table.steps, *initial.shape)
            host = self._host_array("noise.steps", noise.steps)
            given = checked_array("noise.steps", host, shape, "steps, T, c, h, w")
            self._lane.noise(self._request)[: self.table.steps] = given
        if noise.initial is not None or noise.steps is not None:
            self._noise.forget()

    def _perturb(self, latents: Latents, first: int, noise: Noise | None) -> Latents:
        """Add prefix noise to clean latent frames, if the session has any (Ca2-VDM section 3.4)."""
        if self._prefix_noise is None:
            return latents
        if noise is not None and noise.prefix is not None:
            host = self._host_array("noise.prefix", noise.prefix)
            drawn = checked_array("noise.prefix", host, latents.shape, "n, c, h, w")
        else:
            drawn = self._noise.prefix(first, latents)
        factors = np.float32(self._prefix_noise.signal), np.float32(self._prefix_noise.noise)
        return np.asarray(factors[0] * latents + factors[1] * drawn, np.float32)

    def _cache(self, latents: Latents) -> FillTimes:
        """Fill the cache with up to a chunk of clean latent frames; a failure in between closes the session."""
        g, count = self._lane.geometry, len(latents)
        window = make_window(g, self._ring, count)
        keep = g.context == "first" and self._ring.written > 0
        try:
            times = self._lane.fill(
                self._request,
                self._ring,
                latents,
                window,
                context_frames(g, count),
                keep_context=keep,
                stage=partial(staged, self.observer),
                before=partial(self._undo.save, self._ring, count, self._chunks),
            )
            self._ring.advance(count)
        except BaseException:
            # The context or some slots may hold the new chunk while the ring does not count it.
            self._close("a cache fill was interrupted and the session was closed")
            raise
        return times

    def _denoised(self) -> Latents:
        latents: Latents = self._lane.latent(self._request)
        if not np.isfinite(latents).all():
            raise SessionError(
                f"chunk {self._chunks} came out with NaN or Inf; try --precision fp32, another sampler or more steps"
            )
        return latents

    def _finish(self, latents: Latents, noise: Noise, noise_ms: float, steps: StepTimes, started: float) -> Chunk:
        first, count = self._ring.written, self.table.steps
        fill = self._cache(self._perturb(latents, first, noise))
        total_ms = (time.perf_counter() - started) * 1e3
        timings = Timings(
            noise_ms,
            tuple(steps.denoise_ms[:count]),
            tuple(steps.enqueue_us[:count]),
            fill.fill_ms,
            fill.scatter_ms,
            total_ms,
        )
        on_device = self._lane.device_latent(self._request)
        chunk = Chunk(self._chunks, first, latents, timings, on_device, self._codec, self.observer)
        self._chunks += 1
        if self.observer is not None:
            self.observer.finish(chunk)
        return chunk


def advance(
    sessions: Sequence[Session],
    *,
    noise: Sequence[Noise | None] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[Chunk]:
    """Make one chunk of several sessions of one lane, all in the same runs of the denoise graph.

    Args:
        sessions: Different sessions of one lane; each may have its own sampler, steps and position.
        noise: Random numbers for each session; None draws.
        on_step: Called after each denoising step with the number done.

    Raises:
        ValueError: No session, a session twice, or sessions of several lanes.
        SessionError: As :meth:`Session.step`.
    """
    given = [one or Noise() for one in noise or [None] * len(sessions)]
    if not sessions or len({id(session) for session in sessions}) < len(sessions) or len(given) != len(sessions):
        raise ValueError("wanted one or more different sessions, and noise for each or for none")
    lane = sessions[0].lane
    if any(session.lane is not lane for session in sessions):
        raise ValueError("sessions that step together must share a lane; export with --requests for more of them")
    with ExitStack() as held:
        for session in sessions:
            held.enter_context(session._used())
            session._check_started()
        held.enter_context(lane.lock)
        started = time.perf_counter()
        noise_ms = []
        for session, one in zip(sessions, given, strict=True):
            with staged(session.observer, "noise"):
                noise_ms.append(session._begin(one))
        step_times = _denoise(lane, sessions, on_step)
        # All of them are checked before the first one goes on: after an error none has.
        latents = [session._denoised() for session in sessions]
        return [
            session._finish(made, one, drawn, step_times, started)
            for session, made, one, drawn in zip(sessions, latents, given, noise_ms, strict=True)
        ]


def close_together(sessions: Sequence[Session], then: Callable[[], None]) -> None:
    """Close all sessions of a model and then what they ran on, whatever fails; or nothing, where one is in use.

    Raises:
        SessionError: A session is in use; everything stays open.
        DeviceError: A call failed; everything was closed all the same.
    """
    with ExitStack() as held:
        try:
            for session in sessions:
                held.enter_context(session._exclusive.held())
        except SessionError as error:
            raise SessionError(f"the model stays open: {error}") from error
        with ExitStack() as undo:
            undo.callback(then)
            for session in sessions:
                undo.callback(session._close, "the session was closed with its model", "load the model again")


def _denoise(lane: Lane, sessions: Sequence[Session], on_step: Callable[[int], None] | None) -> StepTimes:
    """Run all denoising steps of sessions that have begun, telling their observers."""
    observers = [session.observer for session in sessions if session.observer is not None]

    def tell(done: int) -> None:
        for observer in observers:
            observer.step(done)
        if on_step is not None:
            on_step(done)

    with ExitStack() as stages:
        for session in sessions:
            stages.enter_context(staged(session.observer, "denoise"))
        # Nobody to tell: on a GPU the steps then run without a look at Python between them.
        listens = on_step is not None or bool(observers)
        return lane.denoise(max(session.table.steps for session in sessions), tell if listens else None)
