"""Result and timings of one autoregressive step, and the observer protocol of its stages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ...errors import SessionError

if TYPE_CHECKING:
    from ..device.arrays import DeviceArray
    from .codec import PictureCodec, Pictures

__all__ = ["Chunk", "Observer", "Timings", "staged"]

Latents = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Timings:
    """Timings of one autoregressive step.

    Denoising, fill and scatter are measured on the device: on a GPU by CUDA events.

    Attributes:
        noise_ms: Host time of drawing random numbers, or of waiting for those drawn ahead, in milliseconds.
        denoise_ms: Time of each denoising step, in milliseconds; shared by all sessions that stepped together.
        enqueue_us: Host time of each denoising step, in microseconds; on the CPU the step itself.
        fill_ms: Time of the cache fill, in milliseconds.
        scatter_ms: Time of copying the chunk's K and V into their slots, in milliseconds.
        total_ms: Host time of the whole step, in milliseconds.
    """

    noise_ms: float
    denoise_ms: tuple[float, ...]
    enqueue_us: tuple[float, ...]
    fill_ms: float
    scatter_ms: float
    total_ms: float


@dataclass(frozen=True, repr=False)
class Chunk:
    """The result of one autoregressive step.

    Attributes:
        index: Number of the chunk in its session, from 0.
        first_latent_frame: Absolute number of its first latent frame, given frames included.
        latents: Clean latents, float32 [T, c, h, w]; owned by the caller.
        timings: Timings of the step.
        device_latents: The same latents in device memory, for DLPack and ``__cuda_array_interface__``; owned by the
            session and overwritten by its next chunk.
    """

    index: int
    first_latent_frame: int
    latents: Latents
    timings: Timings
    device_latents: DeviceArray
    _codec: PictureCodec | None = None
    _observer: Observer | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return (
            f"Chunk(index={self.index}, first_latent_frame={self.first_latent_frame}, "
            f"latents={self.latents.dtype} {list(self.latents.shape)}, total_ms={self.timings.total_ms:.1f})"
        )

    @property
    def pictures(self) -> Pictures:
        """Decode the chunk, uint8 [T, height, width, 3]; each access decodes again.

        Raises:
            SessionError: The bundle has no codec.
            RuntimeError: The model was closed.
        """
        if self._codec is None:
            raise SessionError("the bundle has no codec, so there are latents only")
        with staged(self._observer, "decode"):
            return self._codec.decode(self.latents)


class Observer(Protocol):
    """Callbacks for the stages of a session, called synchronously in the session's thread.

    Stages are "encode", "noise", "denoise" (all denoising steps of a chunk), "fill", "scatter" and "decode". They do
    not nest. Use a separate observer for each session: sessions that step together report the same denoising to each.
    """

    def begin(self, stage: str) -> None:
        """Record the start of a stage."""
        ...

    def step(self, done: int) -> None:
        """Record the end of the ``done``-th denoising step of the chunk."""
        ...

    def end(self, stage: str) -> None:
        """Record the end of a stage, also of one that failed."""
        ...

    def finish(self, chunk: Chunk) -> None:
        """Record a finished chunk."""
        ...


@contextmanager
def staged(observer: Observer | None, stage: str) -> Iterator[None]:
    """Notify the observer, if any, of the start and end of the stage that runs in the block."""
    if observer is None:
        yield
        return
    observer.begin(stage)
    try:
        yield
    finally:
        observer.end(stage)
