"""A session: one endless generation, chunk by chunk, on one request slot of a lane."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import SessionError
from ._core import INITIAL_NOISE, PREFIX_NOISE, STEP_NOISE, Ring, fill_normal
from .arrays import Array, checked_array
from .codec import PictureCodec, Pictures
from .lane import Lane
from .sampler_table import PrefixNoise, SamplerTable
from .window import context_frames, make_window, split_prefix

__all__ = ["Chunk", "Noise", "Observer", "Session", "Timings", "advance"]

Latents = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Noise:
    """Random numbers given by the caller instead of drawn from the seed; None draws.

    Attributes:
        initial: What the chunk starts from, [T, c, h, w].
        steps: What each denoising step adds, in the order run, [steps, T, c, h, w].
        prefix: What perturbs clean latent frames before they are cached, [n, c, h, w].
    """

    initial: npt.ArrayLike | None = None
    steps: npt.ArrayLike | None = None
    prefix: npt.ArrayLike | None = None


@dataclass(frozen=True)
class Timings:
    """Where the time of one autoregressive step went, in milliseconds of the host's clock.

    Attributes:
        noise_ms: Drawing random numbers.
        denoise_ms: Each denoising step; shared by all sessions that stepped together.
        fill_ms: The cache fill.
        scatter_ms: Copying the chunk's K and V into their slots.
        total_ms: All of it.
    """

    noise_ms: float
    denoise_ms: tuple[float, ...]
    fill_ms: float
    scatter_ms: float
    total_ms: float


@dataclass(frozen=True)
class Chunk:
    """What one autoregressive step made.

    Attributes:
        index: Number of the chunk in its session, from 0.
        first_latent_frame: Absolute number of its first latent frame; the given ones count.
        latents: Clean latents, float32 [T, c, h, w]; the caller's own.
        timings: Where the time went.
    """

    index: int
    first_latent_frame: int
    latents: Latents
    timings: Timings
    _codec: PictureCodec | None = field(repr=False, default=None)
    _observer: Observer | None = field(repr=False, default=None, compare=False)

    @property
    def pictures(self) -> Pictures:
        """Decode the chunk, uint8 [T, height, width, 3]; each access decodes anew.

        Raises:
            SessionError: The bundle has no codec.
        """
        if self._codec is None:
            raise SessionError("the bundle has no codec, so there are latents only")
        with _staged(self._observer, "decode"):
            return self._codec.decode(self.latents)


class Observer(Protocol):
    """Told of each stage of a session while it happens, in the session's own thread; the session waits for it.

    Stages are "encode", "noise", "denoise" (all denoising steps of a chunk), "fill", "scatter" and "decode". They do
    not nest. Give each session an observer of its own: sessions that step together tell theirs of the same denoising.
    """

    def begin(self, stage: str) -> None:
        """Hear that a stage begins."""
        ...

    def step(self, done: int) -> None:
        """Hear that a denoising step is done, the ``done``-th of the chunk."""
        ...

    def end(self, stage: str) -> None:
        """Hear that a stage ended, also where it failed."""
        ...

    def finish(self, chunk: Chunk) -> None:
        """Hear that a chunk is finished."""
        ...


class Session:
    """One generation. Made by :meth:`Model.session`; use it in one thread at a time, and close it.

    Attributes:
        seed: What all noise is drawn from.
        table: The sampler.
        observer: Told of each stage; None tells nobody.
    """

    def __init__(
        self,
        lane: Lane,
        request: int,
        table: SamplerTable,
        *,
        seed: int | None,
        prefix_noise: PrefixNoise | None,
        codec: PictureCodec | None,
        on_close: Callable[[Session], None],
    ) -> None:
        self.seed = secrets.randbits(64) if seed is None else seed
        self.table = table
        self.observer: Observer | None = None
        self._lane = lane
        self._request = request
        self._ring = Ring(lane.geometry.slots)
        self._prefix_noise = prefix_noise
        self._codec = codec
        self._on_close = on_close
        self._busy = threading.Lock()
        self._chunks = 0
        self._closed: str | None = None

    @property
    def lane(self) -> Lane:
        """The lane whose request slot this session leases."""
        return self._lane

    @property
    def next_latent_frame(self) -> int:
        """Absolute number of the next latent frame; the given ones count."""
        return self._ring.written

    @property
    def closed(self) -> bool:
        """Whether the session was closed, by its user or by a failure."""
        return self._closed is not None

    def start(self, first: npt.ArrayLike, *, noise: Noise | None = None) -> None:
        """Begin a generation after given frames, forgetting any earlier one.

        Args:
            first: Latents, floating point [n, c, h, w], or pictures, uint8 [n, height, width, 3], where the bundle has
                a codec; 1 <= n <= slots. Copied.
            noise: ``prefix`` to use instead of drawn numbers.

        Raises:
            TensorMismatchError: Shape, dtype or values are not what the model takes.
            SessionError: More frames than slots, pictures without a codec, or the session is in use elsewhere.
            RuntimeError: The session is closed.
        """
        with self._exclusive():
            latents = self._given_latents(np.asarray(first))
            with self._lane.lock:
                self._lane.clear(self._request)
                self._ring.reset()
                self._chunks = 0
                self._extend(latents, noise)

    def extend(self, frames: npt.ArrayLike, *, noise: Noise | None = None) -> None:
        """Go on with given frames instead of generated ones: they enter the cache after those that are there.

        Args:
            frames: As ``first`` of :meth:`start`.
            noise: ``prefix`` to use instead of drawn numbers.

        Raises:
            TensorMismatchError: Shape, dtype or values are not what the model takes.
            SessionError: As :meth:`start`, or the session was not started.
            RuntimeError: The session is closed.
        """
        with self._exclusive():
            self._check_started()
            latents = self._given_latents(np.asarray(frames))
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

    def stream(self, chunks: int | None = None, *, on_step: Callable[[int], None] | None = None) -> Iterator[Chunk]:
        """Yield ``chunks`` chunks, or chunks without end; see :meth:`step`."""
        if chunks is not None and chunks < 1:
            raise ValueError(f"chunks must be at least 1, got {chunks}")
        made = 0
        while chunks is None or made < chunks:
            yield self.step(on_step=on_step)
            made += 1

    def cache(self) -> tuple[Array, list[int]]:
        """Return a copy of the KV cache and the latent frame in each slot, -1 for an empty one.

        Returns:
            Cache [L, 2 (K, V), rows, S·H, K slots, d] in its own dtype, and the frames [K].
        """
        with self._exclusive():
            frames = [self._ring.frame(slot) for slot in range(self._ring.slots)]
            return self._lane.cache(self._request).copy(), frames

    def close(self) -> None:
        """Give the request slot back. Closing twice is allowed.

        Raises:
            SessionError: The session is in use in another thread.
        """
        if self._closed is None:
            with self._exclusive():
                self._close("the session was closed")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise SessionError("the session is in use in another thread; give each thread a session of its own")
        try:
            if self._closed is not None:
                raise RuntimeError(f"{self._closed}; make another with model.session()")
            yield
        finally:
            self._busy.release()

    def _close(self, reason: str) -> None:
        if self._closed is None:
            self._closed = reason
            self._lane.release(self._request)
            self._on_close(self)

    def _given_latents(self, given: npt.NDArray[Any]) -> Latents:
        g = self._lane.geometry
        if given.dtype == np.uint8:
            if self._codec is None:
                raise SessionError("the bundle has no codec and takes no pictures; give latents [n, c, h, w]")
            with _staged(self.observer, "encode"):
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
        g, lane = self._lane.geometry, self._lane
        window = make_window(g, self._ring, g.chunk_frames)
        shape = (g.chunk_frames, *g.latent_shape)
        given = None if noise.initial is None else checked_array("noise.initial", noise.initial, shape, "T, c, h, w")
        if self.table.stochastic:
            self._set_step_noise(noise, shape)
        latent = lane.begin(self._request, window)
        if given is None:
            self._draw(latent, step=0, kind=INITIAL_NOISE, first=self._ring.written)
        else:
            latent[:] = given
        return (time.perf_counter() - started) * 1e3

    def _set_step_noise(self, noise: Noise, shape: tuple[int, ...]) -> None:
        steps = self.table.steps
        place = self._lane.noise(self._request)
        if noise.steps is not None:
            place[:steps] = checked_array("noise.steps", noise.steps, (steps, *shape), "steps, T, c, h, w")
            return
        for step in range(steps):
            self._draw(place[step], step=step, kind=STEP_NOISE, first=self._ring.written)

    def _draw(self, frames: Latents, *, step: int, kind: int, first: int) -> None:
        """Draw normals for consecutive latent frames into a contiguous array [n, c, h, w]."""
        for offset, frame in enumerate(frames):
            fill_normal(frame.ctypes.data, frame.size, seed=self.seed, frame=first + offset, step=step, kind=kind)

    def _perturb(self, latents: Latents, first: int, noise: Noise | None) -> Latents:
        """Add prefix noise to clean latent frames, if the session has any (Ca2-VDM section 3.4)."""
        if self._prefix_noise is None:
            return latents
        if noise is not None and noise.prefix is not None:
            drawn = checked_array("noise.prefix", noise.prefix, latents.shape, "n, c, h, w")
        else:
            drawn = np.empty_like(latents)
            self._draw(drawn, step=0, kind=PREFIX_NOISE, first=first)
        factors = np.float32(self._prefix_noise.signal), np.float32(self._prefix_noise.noise)
        return np.asarray(factors[0] * latents + factors[1] * drawn, np.float32)

    def _cache(self, latents: Latents) -> tuple[float, float]:
        """Fill the cache with up to a chunk of clean latent frames; a failure in between closes the session.

        Returns:
            Milliseconds of the fill and of the scatter.
        """
        g, count = self._lane.geometry, len(latents)
        window = make_window(g, self._ring, count)
        keep = g.context == "first" and self._ring.written > 0
        try:
            with _staged(self.observer, "fill"):
                fill_ms = self._lane.fill(self._request, latents, window, context_frames(g, count), keep_context=keep)
            with _staged(self.observer, "scatter"):
                scatter_ms = self._lane.scatter(self._request, self._ring, count)
            self._ring.advance(count)
        except BaseException:
            # The context or some slots may hold the new chunk while the ring does not count it.
            self._close("a cache fill was interrupted and the session was closed")
            raise
        return fill_ms, scatter_ms

    def _denoised(self) -> Latents:
        latents: Latents = self._lane.latent(self._request)
        if not np.isfinite(latents).all():
            raise SessionError(
                f"chunk {self._chunks} came out with NaN or Inf; try --precision fp32, another sampler or more steps"
            )
        return latents

    def _finish(
        self, latents: Latents, noise: Noise, noise_ms: float, denoise_ms: list[float], started: float
    ) -> Chunk:
        first = self._ring.written
        fill_ms, scatter_ms = self._cache(self._perturb(latents, first, noise))
        total_ms = (time.perf_counter() - started) * 1e3
        timings = Timings(noise_ms, tuple(denoise_ms[: self.table.steps]), fill_ms, scatter_ms, total_ms)
        chunk = Chunk(self._chunks, first, latents, timings, self._codec, self.observer)
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
            held.enter_context(session._exclusive())
            session._check_started()
        held.enter_context(lane.lock)
        started = time.perf_counter()
        noise_ms = []
        for session, one in zip(sessions, given, strict=True):
            with _staged(session.observer, "noise"):
                noise_ms.append(session._begin(one))
        denoise_ms = _denoise(lane, sessions, on_step)
        # All of them are checked before the first one goes on: after an error none has.
        latents = [session._denoised() for session in sessions]
        return [
            session._finish(made, one, drawn, denoise_ms, started)
            for session, made, one, drawn in zip(sessions, latents, given, noise_ms, strict=True)
        ]


def _denoise(lane: Lane, sessions: Sequence[Session], on_step: Callable[[int], None] | None) -> list[float]:
    """Run all denoising steps of sessions that have begun, telling their observers."""
    observers = [session.observer for session in sessions if session.observer is not None]

    def tell(done: int) -> None:
        for observer in observers:
            observer.step(done)
        if on_step is not None:
            on_step(done)

    with ExitStack() as stages:
        for session in sessions:
            stages.enter_context(_staged(session.observer, "denoise"))
        return lane.denoise(max(session.table.steps for session in sessions), tell)


@contextmanager
def _staged(observer: Observer | None, stage: str) -> Iterator[None]:
    if observer is None:
        yield
        return
    observer.begin(stage)
    try:
        yield
    finally:
        observer.end(stage)
