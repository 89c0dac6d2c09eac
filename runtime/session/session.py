"""A session: one endless generation, chunk by chunk, on one request slot of a lane."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType

from ...errors import DeviceError, SessionError
from ..device.array_input import ArrayInput
from ..device.arrays import Array
from ..lane.lane import Lane
from ..sampling.integers import whole
from ..sampling.noise import Noise
from ..sampling.sampler_table import SamplerTable
from .advance import advance
from .chunk import Chunk, Observer
from .generation import Generation
from .session_settings import SessionSettings
from .snapshot import Snapshot
from .streaming import stream_ahead, stream_plainly

__all__ = ["Session", "close_together"]


class Session:
    """One generation. Made by :meth:`Model.session`; use it in one thread at a time, and close it."""

    __slots__ = ("__weakref__", "_generation")

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __repr__(self) -> str:
        return (
            f"Session(seed={self.seed}, sampler={self.table.name!r}, steps={self.table.steps}, "
            f"next_latent_frame={self.next_latent_frame}, closed={self.closed})"
        )

    @property
    def generation(self) -> Generation:
        """What the session consists of; to be used by what makes its chunks."""
        return self._generation

    @property
    def observer(self) -> Observer | None:
        """Called at each stage, or None. The only attribute that can be set."""
        return self._generation.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._generation.observer = observer

    @property
    def table(self) -> SamplerTable:
        """The sampler."""
        return self._generation.table

    @property
    def settings(self) -> SessionSettings:
        """What it was asked for."""
        return self._generation.settings

    @property
    def seed(self) -> int:
        """What all noise is drawn from."""
        return self.settings.seed

    @property
    def lane(self) -> Lane:
        """The lane whose request slot this session leases."""
        return self._generation.lane

    @property
    def request(self) -> int:
        """Number of that request slot."""
        return self._generation.request

    @property
    def next_latent_frame(self) -> int:
        """Absolute number of the next latent frame; the given ones count."""
        return self._generation.cache.written

    @property
    def undo_nbytes(self) -> int:
        """Bytes of device memory of the log that ``rollback_chunks`` keeps, beside the lane's cache."""
        return self._generation.cache.undo_nbytes

    @property
    def closed(self) -> bool:
        """Whether the session was closed, by its user or by a failure."""
        return self._generation.exclusive.closed

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
            latents = self._generation.given_latents("first", first)
            with self._locked():
                self._generation.cache.clear()
                self._generation.extend(latents, noise)
                self._generation.cache.forget_undo()  # what was given first is where a session begins

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
            self._generation.check_started()
            latents = self._generation.given_latents("frames", frames)
            with self._locked():
                self._generation.extend(latents, noise)

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
        with self._used(), self._locked():
            with self._generation.closed_if(DeviceError, KeyboardInterrupt, what="a rollback"):
                self._generation.cache.rollback(whole("chunks", chunks))

    def reset(self) -> None:
        """Forget everything but the settings; :meth:`start` begins anew.

        Raises:
            SessionError: The session is in use elsewhere.
            RuntimeError: The session is closed.
        """
        with self._used(), self._locked():
            self._generation.cache.clear()

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state, for :meth:`Model.restore`: to go on later, or in two ways from here.

        Raises:
            SessionError: The session was not started, or is in use elsewhere.
            RuntimeError: The session is closed.
        """
        with self._used(), self._locked():
            self._generation.check_started()
            lane, cache = self.lane, self._generation.cache
            tensors = {**cache.tensors(), **lane.conditioning.text(self.request)}
            return Snapshot(*lane.graphs_id, cache.written, cache.chunks, self.settings, tensors, cache.sinks)

    def adopt(self, snapshot: Snapshot) -> None:
        """Stand where a snapshot was taken, which was checked to fit; :meth:`Model.restore` calls it.

        Raises:
            DeviceError: A copy failed; the session is closed.
        """
        tensors = snapshot.tensors
        with self._used(), self._locked():
            self._generation.cache.clear()
            with self._generation.closed_if(BaseException, what="restoring"):
                self._generation.cache.adopt(
                    snapshot.written, snapshot.chunks, tensors["cache"], tensors.get("context")
                )

    def cache(self) -> tuple[Array, list[int]]:
        """Return a copy of the KV cache and the latent frame in each slot, -1 for an empty one.

        Returns:
            Cache [L, 2 (K, V), rows, S·H, K slots, d] in its own dtype, FP8 as bytes of uint8, and the frames [K].
        """
        with self._used():
            return self.lane.cache.read(self.request), self._generation.cache.frames()

    def close(self) -> None:
        """Give the request slot back. Closing twice is allowed.

        Raises:
            SessionError: The session is in use, in another thread or by the call that this one comes from, as in an
                ``on_step`` callback. It stays open.
        """
        if not self.closed:
            with self._generation.exclusive.held():
                self._generation.close("the session was closed")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _used(self) -> AbstractContextManager[None]:
        return self._generation.exclusive.used()

    def _locked(self) -> AbstractContextManager[None]:
        return self.lane.lock.used()


def close_together(sessions: Sequence[Session], then: Callable[[], None]) -> None:
    """Close all sessions of a model and then what they ran on, whatever fails; or nothing, where one is in use.

    Raises:
        SessionError: A session is in use; everything stays open.
        DeviceError: A call failed; everything was closed all the same.
    """
    with ExitStack() as held:
        try:
            for session in sessions:
                held.enter_context(session.generation.exclusive.held())
        except SessionError as error:
            raise SessionError(f"the model stays open: {error}") from error
        with ExitStack() as undo:
            undo.callback(then)
            for session in sessions:
                undo.callback(session.generation.close, "the session was closed with its model", "load the model again")
