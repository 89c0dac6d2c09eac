"""Noise of a request's chunks and prefix frames, drawn from the seed or given by the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..device.array_input import host_array
from ..device.arrays import checked_array
from .noise import NoiseSource

if TYPE_CHECKING:
    from .._core import Device
    from .noise import Noise
    from .sampler_table import PrefixNoise

__all__ = ["RequestNoise"]

Latents = npt.NDArray[np.float32]


class RequestNoise:
    """Source of a request's noise."""

    __slots__ = ("_device", "_place", "_prefix", "_source")

    def __init__(
        self,
        seed: int,
        shape: tuple[int, ...],
        steps: int,
        place: Latents | None,
        prefix: PrefixNoise | None,
        device: Device,
    ) -> None:
        """Create the noise source.

        Args:
            seed: 0 <= seed < 2**64.
            shape: Shape of a chunk, [T, c, h, w].
            steps: Denoising steps that take noise.
            place: Buffer of the step noise, float32 [N >= steps, T, c, h, w]; None for a deterministic sampler.
            prefix: Noise level of clean latent frames before they are cached; None adds no noise.
            device: Device that a user's arrays on a GPU are copied from.
        """
        self._place = None if place is None else place[:steps]
        self._source = NoiseSource(seed, shape, steps, place)
        self._prefix = prefix
        self._device = device

    def prepare(self, first: int, given: Noise) -> Latents:
        """Prepare the noise of the chunk at latent frame ``first``.

        Returns:
            Initial noise, [T, c, h, w]; valid until the next call. The step noise is in its buffer.

        Raises:
            TensorMismatchError: The given noise does not match the model's.
        """
        shape = self._source.shape
        initial = self._checked("initial", given.initial, shape, "T, c, h, w")
        steps = None
        if self._place is not None:
            steps = self._checked("steps", given.steps, self._place.shape, "steps, T, c, h, w")
        nothing_to_draw = initial is not None and (steps is not None or self._place is None)
        start = self._source.blank() if nothing_to_draw else self._source.chunk(first)
        if initial is not None:
            start[:] = initial
        if steps is not None and self._place is not None:
            self._place[:] = steps
        if initial is not None or steps is not None:
            self._source.forget()
        return start

    def draw_ahead(self, first: int) -> None:
        """Start drawing for the chunk at ``first`` in another thread."""
        self._source.chunk_ahead(first)

    def perturb(self, latents: Latents, first: int, given: Noise | None) -> Latents:
        """Add prefix noise, if configured, to clean latent frames from ``first`` on (Ca2-VDM section 3.4).

        Raises:
            TensorMismatchError: The given noise does not match the model's.
        """
        if self._prefix is None:
            return latents
        drawn = None if given is None else self._checked("prefix", given.prefix, latents.shape, "n, c, h, w")
        if drawn is None:
            drawn = self._source.prefix(first, latents)
        factors = np.float32(self._prefix.signal), np.float32(self._prefix.noise)
        return np.asarray(factors[0] * latents + factors[1] * drawn, np.float32)

    def close(self) -> None:
        """Stop the thread. Closing twice is allowed."""
        self._source.close()

    def _checked(self, name: str, value: Any, shape: tuple[int, ...], axes: str) -> Latents | None:
        if value is None:
            return None
        return checked_array(f"noise.{name}", host_array(f"noise.{name}", value, lambda: self._device), shape, axes)
