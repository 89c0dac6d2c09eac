"""Sessions: open-ended generation, chunk by chunk, on one request slot of a lane."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from ...errors import DeviceError
from ..sampling.integers import whole
from .advance import advance
from .snapshot import Snapshot
from .streaming import stream_ahead, stream_plainly

if TYPE_CHECKING:
    from ..device.array_input import ArrayInput
    from ..device.arrays import Array
    from ..lane.lane import Lane
    from ..sampling.noise import Noise
    from ..sampling.sampler_table import SamplerTable
    from .chunk import Chunk, Observer
    from .generation import Generation
    from .session_settings import SessionSettings

__all__ = ["Session"]


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
        """State of the session, for :class:`~vdmrt.runtime.session.advance.Advance`."""
        return self._generation

    @property
    def observer(self) -> Observer | None:
        """Observer of the stages, or None. The only attribute that can be set."""
        return self._generation.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._generation.observer = observer

    @property
    def table(self) -> SamplerTable:
        """Coefficients of the sampler."""
        return self._generation.table

    @property
    def settings(self) -> SessionSettings:
        """Settings of the session."""
        return self._generation.settings

    @property
    def seed(self) -> int:
        """Seed of all noise."""
        return self.settings.seed

    @property
    def lane(self) -> Lane:
        """Lane of the leased request slot."""
        return self._generation.lane

    @property
    def request(self) -> int:
        """Number of the leased request slot."""
        return self._generation.request

    @property
    def next_latent_frame(self) -> int:
        """Absolute number of the next latent frame, given frames included."""
        return self._generation.cache.written

    @property
    def undo_nbytes(self) -> int:
        """Bytes of device memory of the undo log for ``rollback_chunks``, in addition to the lane's cache."""
        return self._generation.cache.undo_nbytes

    @property
    def closed(self) -> bool:
        """Whether the session was closed, by its user or by a failure."""
        return self._generation.exclusive.closed

    def start(self, first: ArrayInput, *, noise: Noise | None = None) -> None:
        """Start a generation from given frames and discard any earlier one.

        Args:
            first: Latents, floating point [n, c, h, w], or pictures, uint8 [n, height, width, 3], of the size of the
                bundle's codec (see :func:`~vdmrt.media.fit_pictures`); 1 <= n <= slots. In host memory, or on the
                session's GPU with DLPack or ``__cuda_array_interface__``. Copied.
            noise: Its ``prefix`` replaces the drawn noise.

        Raises:
            TensorMismatchError: Shape or dtype differs from the model's, or a value is NaN or Inf.
            SessionError: More frames than slots, pictures without a codec, or the session is in use elsewhere.
            RuntimeError: The session is closed.
        """
        with self._used():
            latents = self._generation.given_latents("first", first)
            with self._locked():
                self._generation.cache.clear()
                self._generation.extend(latents, noise)
                self._generation.cache.forget_undo()  # rollback does not reach back beyond the first frames

    def extend(self, frames: ArrayInput, *, noise: Noise | None = None) -> None:
        """Append given frames to the cache in place of generated ones.

        Args:
            frames: As ``first`` of :meth:`start`.
            noise: Its ``prefix`` replaces the drawn noise.

        Raises:
            TensorMismatchError: Shape or dtype differs from the model's, or a value is NaN or Inf.
            SessionError: As :meth:`start`, or the session was not started.
            RuntimeError: The session is closed.
        """
        with self._used():
            self._generation.check_started()
            latents = self._generation.given_latents("frames", frames)
            with self._locked():
                self._generation.extend(latents, noise)

    def step(self, *, noise: Noise | None = None, on_step: Callable[[int], None] | None = None) -> Chunk:
        """Generate one chunk: all its denoising steps, then the cache fill.

        Args:
            noise: Random numbers that replace the drawn ones.
            on_step: Called after each denoising step with the number done; an exception from it cancels the chunk and
                leaves the session unchanged.

        Raises:
            SessionError: The session was not started, has no absolute positions left, or is in use in another thread.
            TensorMismatchError: The given noise does not match the model's.
            RuntimeError: The session is closed.
        """
        return advance([self], noise=[noise], on_step=on_step)[0]

    def stream(
        self, chunks: int | None = None, *, on_step: Callable[[int], None] | None = None, ahead: bool = False
    ) -> Generator[Chunk, None, None]:
        """Yield ``chunks`` chunks, or chunks without end; see :meth:`step`.

        Args:
            chunks: How many; None for no end.
            on_step: As for :meth:`step`; called in the thread that generates the chunk.
            ahead: Whether to generate the next chunk in a thread while the caller uses the current one: on a GPU the
                caller's decoding then overlaps the next denoising. The session is one chunk ahead of the yielded one;
                closing the iterator cancels the chunk in progress.

        Raises:
            TypeError: ``chunks`` is not a whole number.
            ValueError: ``chunks`` is not positive.
        """
        if chunks is not None and whole("chunks", chunks) < 1:
            raise ValueError(f"chunks must be at least 1, got {chunks}")
        make = stream_ahead if ahead else stream_plainly
        yield from make(self.step, chunks, on_step)

    def rollback(self, chunks: int = 1) -> None:
        """Undo the last chunks: restore cache, context and position bit for bit.

        Each cache fill counts: one for :meth:`step`, one for each whole or partial chunk of frames of :meth:`extend`.
        Generated again with the same arguments, the chunks are the same.

        Args:
            chunks: Number of chunks, at most ``rollback_chunks`` of :meth:`Model.session`.

        Raises:
            TypeError: ``chunks`` is not a whole number.
            ValueError: ``chunks`` is not positive.
            SessionError: The log has fewer chunks, or the session is in use elsewhere.
            DeviceError: A copy failed; the session is closed.
            RuntimeError: The session is closed.
        """
        with self._used(), self._locked():
            with self._generation.closed_if(DeviceError, KeyboardInterrupt, what="a rollback"):
                self._generation.cache.rollback(whole("chunks", chunks))

    def reset(self) -> None:
        """Clear all state but the settings; call :meth:`start` next.

        Raises:
            SessionError: The session is in use elsewhere.
            RuntimeError: The session is closed.
        """
        with self._used(), self._locked():
            self._generation.cache.clear()

    def snapshot(self) -> Snapshot:
        """Return a copy of the whole state, for :meth:`Model.restore`.

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
        """Set the state to a checked snapshot; called by :meth:`Model.restore`.

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
        """Release the request slot. Closing twice is allowed.

        Raises:
            SessionError: The session is in use in another thread, or by a caller of this call, as in an ``on_step``
                callback. It stays open.
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
