"""What one autoregressive step made, where its time went, and who is told of it while it happens."""

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
    """Where the time of one autoregressive step went.

    Denoising, fill and scatter are on the device's clock; on a GPU these are CUDA events.

    Attributes:
        noise_ms: Drawing random numbers, or waiting for those that were drawn ahead, in milliseconds of the host.
        denoise_ms: Each denoising step, in milliseconds; shared by all sessions that stepped together.
        enqueue_us: What the host did for each of them, in microseconds; on the CPU that is the step itself.
        fill_ms: The cache fill, in milliseconds.
        scatter_ms: Copying the chunk's K and V into their slots, in milliseconds.
        total_ms: All of it, in milliseconds of the host.
    """

    noise_ms: float
    denoise_ms: tuple[float, ...]
    enqueue_us: tuple[float, ...]
    fill_ms: float
    scatter_ms: float
    total_ms: float


@dataclass(frozen=True, repr=False)
class Chunk:
    """What one autoregressive step made.

    Attributes:
        index: Number of the chunk in its session, from 0.
        first_latent_frame: Absolute number of its first latent frame; the given ones count.
        latents: Clean latents, float32 [T, c, h, w]; the caller's own.
        timings: Where the time went.
        device_latents: The same latents where they lie on the device, for DLPack and ``__cuda_array_interface__``;
            the session's memory, written again by its next chunk.
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
        """Decode the chunk, uint8 [T, height, width, 3]; each access decodes anew.

        Raises:
            SessionError: The bundle has no codec.
            RuntimeError: The model was closed.
        """
        if self._codec is None:
            raise SessionError("the bundle has no codec, so there are latents only")
        with staged(self._observer, "decode"):
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


@contextmanager
def staged(observer: Observer | None, stage: str) -> Iterator[None]:
    """Tell an observer, if there is one, of a stage while it happens."""
    if observer is None:
        yield
        return
    observer.begin(stage)
    try:
        yield
    finally:
        observer.end(stage)
