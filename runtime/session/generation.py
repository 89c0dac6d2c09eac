"""Generation on one request slot of a lane: the unguarded implementation of a session."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import SessionError
from ..cache.window import split_prefix
from ..device.array_input import host_array
from ..device.arrays import checked_array
from ..device.exclusive import Exclusive
from ..lane.request_cache import RequestCache
from ..sampling.request_noise import RequestNoise
from .chunk import Chunk, Timings, staged

if TYPE_CHECKING:
    from ..lane.denoising import Progress
    from ..lane.filling import FillTimes
    from ..lane.lane import Lane
    from ..sampling.noise import Noise
    from ..sampling.sampler_table import PrefixNoise, SamplerTable
    from .chunk import Observer
    from .codec import PictureCodec
    from .session_settings import SessionSettings

__all__ = ["Begun", "Generation"]

Latents = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Begun:
    """A chunk that is being denoised.

    Attributes:
        noise: Noise that the caller gave.
        progress: Denoising steps done and remaining.
        noise_ms: Time of drawing noise, in milliseconds.
        started: Start time, from ``time.perf_counter``, in seconds.
    """

    noise: Noise
    progress: Progress
    noise_ms: float
    started: float


class Generation:
    """The state of a session. The caller holds ``exclusive``, and the lane's lock for methods that run graphs.

    Attributes:
        lane: Lane of the leased request slot.
        request: Number of the leased request slot.
        table: Coefficients of the sampler.
        settings: Settings of the session.
        cache: Cached latent frames.
        exclusive: Guard of exclusive use; knows whether the session is closed.
        observer: Observer of the stages, or None.
    """

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
        on_close: Callable[[Generation], None],
    ) -> None:
        """Own a request slot that was leased and set up; closing releases it.

        Raises:
            DeviceError: The device does not have the memory for ``rollback_chunks``.
        """
        g = lane.geometry
        self.lane = lane
        self.request = request
        self.table = table
        self.settings = settings
        self.cache = RequestCache(lane, request, rollback_chunks)
        place = lane.denoising.noise(request) if table.stochastic else None
        shape = g.chunk_frames, *g.latent_shape
        self._noise = RequestNoise(settings.seed, shape, table.steps, place, prefix_noise, lane.device)
        self.exclusive = Exclusive()
        self.observer: Observer | None = None
        self._codec = codec
        self._on_close = on_close

    def check_started(self) -> None:
        """Raise if the session was not started.

        Raises:
            SessionError: The cache has no frames.
        """
        if self.cache.written == 0:
            raise SessionError("the session has no frames to continue from; call start(first_frames) first")

    def given_latents(self, name: str, given: Any) -> Latents:
        """Return a user's latents or pictures as latent frames [n, c, h, w]; encode pictures.

        Raises:
            TensorMismatchError: Shape or dtype differs from the model's, or a value is NaN or Inf.
            SessionError: More frames than slots, or pictures without a codec.
        """
        g, device = self.lane.geometry, self.lane.device
        array = host_array(name, given, lambda: device)
        if array.dtype == np.uint8:
            if self._codec is None:
                raise SessionError("the bundle has no codec and takes no pictures; give latents [n, c, h, w]")
            with staged(self.observer, "encode"):
                array = self._codec.encode(array)
        latents = checked_array("latents", array, (None, *g.latent_shape), "n, c, h, w")
        if not 1 <= len(latents) <= g.slots:
            raise SessionError(f"the cache holds 1 to {g.slots} given latent frames, got {len(latents)}")
        return latents

    def extend(self, latents: Latents, noise: Noise | None) -> None:
        """Append given latent frames to the cache, a chunk at a time."""
        perturbed = self._noise.perturb(latents, self.cache.written, noise)
        for begin, count in split_prefix(len(latents), self.lane.geometry.chunk_frames):
            self._fill(perturbed[begin : begin + count])

    def begin(self, noise: Noise) -> Begun:
        """Set the lane's tensors for the next chunk.

        Raises:
            SessionError: No absolute positions are left.
            TensorMismatchError: The given noise does not match the model's.
        """
        started = time.perf_counter()
        first, count = self.cache.written, self.lane.geometry.chunk_frames
        with staged(self.observer, "noise"):
            window = self.cache.window(count)
            initial = self._noise.prepare(first, noise)
            noise_steps = self.table.steps if self.table.stochastic else 0
            progress = self.lane.denoising.begin(
                self.request, window, initial=initial, steps=self.table.steps, noise_steps=noise_steps
            )
            noise_ms = (time.perf_counter() - started) * 1e3
            if not self.lane.device.is_host:
                # The upload of the noise must finish before the next draw overwrites it. While the device denoises,
                # the host draws for the next chunk.
                self.lane.device.synchronize()
                self._noise.draw_ahead(first + count)
        return Begun(noise, progress, noise_ms, started)

    def denoised(self) -> Latents:
        """Return a copy of the latents after the last denoising step, [T, c, h, w].

        Raises:
            SessionError: The latents contain NaN or Inf.
        """
        latents: Latents = self.lane.denoising.latent(self.request)
        if not np.isfinite(latents).all():
            raise SessionError(
                f"chunk {self.cache.chunks} contains NaN or Inf; try --precision fp32, another sampler or more steps"
            )
        return latents

    def perturbed(self, begun: Begun, latents: Latents) -> Latents:
        """Return the denoised latents with prefix noise, as the cache takes them.

        Raises:
            TensorMismatchError: The given noise does not match the model's.
        """
        return self._noise.perturb(latents, self.cache.written, begun.noise)

    def finish(self, begun: Begun, latents: Latents, perturbed: Latents) -> Chunk:
        """Append the ``perturbed`` latents to the cache and return the denoised ones as a chunk."""
        first, times = self.cache.written, begun.progress.times
        fill = self._fill(perturbed)
        timings = Timings(
            begun.noise_ms,
            tuple(times.denoise_ms),
            tuple(times.enqueue_us),
            fill.fill_ms,
            fill.scatter_ms,
            (time.perf_counter() - begun.started) * 1e3,
        )
        on_device = self.lane.denoising.device_latent(self.request)
        chunk = Chunk(self.cache.count_chunk(), first, latents, timings, on_device, self._codec, self.observer)
        if self.observer is not None:
            self.observer.finish(chunk)
        return chunk

    @contextmanager
    def closed_if(self, *failures: type[BaseException], what: str) -> Iterator[None]:
        """Close the session if one of ``failures`` ends the block: the cache may be partly written."""
        try:
            yield
        except failures:
            self.close(f"{what} was interrupted and the session was closed")
            raise

    def close(self, reason: str, remedy: str = "create another with model.session()") -> None:
        """Release the request slot and everything else, whatever fails. Closing twice is allowed."""
        if self.exclusive.close(f"{reason}; {remedy}"):
            with ExitStack() as undo:
                undo.callback(self._on_close, self)
                undo.callback(self.lane.leases.release, self.request)
                undo.callback(self.cache.close)
                undo.callback(self._noise.close)

    def _fill(self, latents: Latents) -> FillTimes:
        """Append up to a chunk of latent frames; a failure closes the session."""
        window = self.cache.window(len(latents))
        with self.closed_if(BaseException, what="a cache fill"):
            return self.cache.fill(latents, window, partial(staged, self.observer))
