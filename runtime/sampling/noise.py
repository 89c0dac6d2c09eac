"""Noise of a session: drawn from its seed, on a GPU one chunk ahead while the device denoises."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .._core import (
    INITIAL_NOISE,
    PREFIX_NOISE,
    STEP_NOISE,
    fill_normal,
)

if TYPE_CHECKING:
    from ..device.array_input import ArrayInput

__all__ = ["Noise", "NoiseSource"]

Latents = npt.NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class Noise:
    """Random numbers given by the caller; what is None is drawn from the seed.

    Attributes:
        initial: Initial latent of the chunk, [T, c, h, w].
        steps: Noise added by each denoising step, in the order run, [steps, T, c, h, w].
        prefix: Noise added to clean latent frames before they are cached, [n, c, h, w].
    """

    initial: ArrayInput | None = None
    steps: ArrayInput | None = None
    prefix: ArrayInput | None = None

    def __repr__(self) -> str:
        sources = (f"{name}={'drawn' if value is None else 'given'}" for name, value in vars(self).items())
        return f"Noise({', '.join(sources)})"


class NoiseSource:
    """Standard normals keyed by seed, absolute latent frame, denoising step and kind; see ``_core.fill_normal``.

    Attributes:
        seed: Seed of all noise.
        shape: Shape of a chunk, [T, c, h, w].
    """

    def __init__(self, seed: int, shape: tuple[int, ...], steps: int, place: Latents | None) -> None:
        """Allocate the buffer of the initial noise.

        Args:
            seed: 0 <= seed < 2**64.
            shape: Shape of a chunk, [T, c, h, w].
            steps: Denoising steps that take noise.
            place: Buffer of the step noise, float32 [N >= steps, T, c, h, w]; None for a deterministic sampler.
        """
        self.seed = seed
        self.shape = shape
        self._initial = np.empty(shape, np.float32)
        self._place = None if place is None else place[:steps]
        self._held: int | None = None  # first frame of the chunk whose noise is in `_initial` and `_place`
        self._worker: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def chunk(self, first: int) -> Latents:
        """Return the noise of the chunk that begins at latent frame ``first``.

        Returns:
            Initial noise, [T, c, h, w]; valid until the next call. The step noise is in its buffer.
        """
        self._settle()
        if self._held != first:
            self._draw_chunk(first)
        return self._initial

    def blank(self) -> Latents:
        """Return the buffer of :meth:`chunk`'s result for the caller to write given noise to."""
        self.forget()
        return self._initial

    def chunk_ahead(self, first: int) -> None:
        """Start drawing for the chunk at ``first`` in another thread; :meth:`chunk` waits for it."""
        self._settle()
        self._worker = self._worker or ThreadPoolExecutor(1, thread_name_prefix="vdmrt-noise")
        self._pending = self._worker.submit(self._draw_chunk, first)

    def prefix(self, first: int, like: Latents) -> Latents:
        """Draw the prefix noise of clean latent frames from ``first`` on, [n, c, h, w]."""
        drawn = np.empty_like(like)
        self._draw(drawn, first=first, step=0, kind=PREFIX_NOISE)
        return drawn

    def forget(self) -> None:
        """Discard the drawn noise; its buffer has been overwritten."""
        self._settle()
        self._held = None

    def close(self) -> None:
        """Stop the thread. Closing twice is allowed."""
        if self._worker is not None:
            self._worker.shutdown(wait=True)

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _draw_chunk(self, first: int) -> None:
        self._held = None
        self._draw(self._initial, first=first, step=0, kind=INITIAL_NOISE)
        if self._place is not None:
            for step, frames in enumerate(self._place):
                self._draw(frames, first=first, step=step, kind=STEP_NOISE)
        self._held = first

    def _draw(self, frames: Latents, *, first: int, step: int, kind: int) -> None:
        """Draw normals for consecutive latent frames into a contiguous array [n, c, h, w]."""
        for offset, frame in enumerate(frames):
            fill_normal(frame.ctypes.data, frame.size, seed=self.seed, frame=first + offset, step=step, kind=kind)
