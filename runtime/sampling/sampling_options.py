"""Sampling options, shared by every command that generates rollouts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PREDICTIONS", "SAMPLERS", "SamplingOptions"]

PREDICTIONS = ("epsilon", "v", "flow")
"""Prediction types of a model: the noise (Ho et al. 2020), v = sqrt(abar) noise - sqrt(1 - abar) x0
(Salimans and Ho 2022), or the velocity noise - x0 of a rectified flow (Liu et al. 2022)."""

_DIFFUSION = ("epsilon", "v")
SAMPLERS = {
    "iddpm": _DIFFUSION,
    "ddpm": _DIFFUSION,
    "ddim": _DIFFUSION,
    "dpm-solver++": _DIFFUSION,
    "flow-euler": ("flow",),
}
"""The samplers and the prediction types that each supports."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Sampling options of a session.

    Attributes:
        steps: Denoising steps of a chunk; None uses the bundle's default, as for the sampler and the guidance.
        sampler: One of :data:`SAMPLERS`.
        guidance: Scale of classifier-free guidance.
        text: Text embeddings, .npy [tokens, width].
        text_mask: 1 for a valid token, .npy [tokens]; None treats all tokens as valid.
        prefix_noise: Training timestep of the noise added to clean frames before they are cached.
    """

    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    text: Path | None = None
    text_mask: Path | None = None
    prefix_noise: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.sampler!r}")
        if self.guidance is not None and not math.isfinite(self.guidance):
            raise ValueError(f"guidance must be finite, got {self.guidance}")
        if self.text_mask is not None and self.text is None:
            raise ValueError(f"a text mask requires text embeddings, got only the mask '{self.text_mask}'")
        if self.prefix_noise is not None and self.prefix_noise < 0:
            raise ValueError(f"prefix noise must be a training timestep of at least 0, got {self.prefix_noise}")
