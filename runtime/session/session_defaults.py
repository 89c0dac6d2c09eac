"""Default settings of a session, taken from the bundle, and the resulting sampler table."""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING

from ..sampling.integers import whole
from ..sampling.samplers import make_sampler
from ..sampling.schedules import Schedule
from .session_settings import SessionSettings

if TYPE_CHECKING:
    from ...bundle import Manifest
    from ..sampling.samplers import SamplerTable

__all__ = ["checked_seed", "complete_guidance", "complete_settings", "make_table"]


def complete_settings(
    manifest: Manifest,
    *,
    seed: int | None,
    sampler: str | None,
    steps: int | None,
    guidance: float | None,
    prefix_noise: int | None,
    eta: float,
    shift: float,
) -> SessionSettings:
    """Return settings with each None replaced by the bundle's default, or by a random seed.

    Raises:
        TypeError: ``seed``, ``steps`` or ``prefix_noise`` is not a whole number.
        ValueError: ``seed`` or ``guidance`` is out of range.
    """
    defaults = manifest.sampler
    return SessionSettings(
        secrets.randbits(64) if seed is None else checked_seed(seed),
        sampler or defaults.name,
        defaults.steps if steps is None else whole("steps", steps),
        complete_guidance(manifest, guidance),
        None if prefix_noise is None else whole("prefix_noise", prefix_noise),
        eta,
        shift,
    )


def checked_seed(seed: int) -> int:
    """Return ``seed`` as an int after checking its range.

    Raises:
        TypeError: ``seed`` is not a whole number.
        ValueError: ``seed`` is out of range.
    """
    seed = whole("seed", seed)
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be 0 <= seed < 2**64, got {seed}")
    return seed


def complete_guidance(manifest: Manifest, guidance: float | None) -> float | None:
    """Return the guidance scale of a graph with null rows, else None.

    Raises:
        ValueError: ``guidance`` is not finite, or the bundle has no null rows.
    """
    if manifest.geometry.rows_per_request == 2:
        scale = manifest.sampler.guidance if guidance is None else guidance
        if not math.isfinite(scale):
            raise ValueError(f"guidance must be finite, got {scale}")
        return scale
    if guidance is not None and guidance != 1.0:
        raise ValueError(f"the bundle has no null rows, so guidance must be 1, got {guidance}")
    return None


def make_table(manifest: Manifest, settings: SessionSettings) -> SamplerTable:
    """Return the sampler table of a session.

    Raises:
        ValueError: A number is out of range, or the sampler does not fit the model or the bundle.
    """
    table = make_sampler(
        settings.sampler,
        steps=settings.steps,
        prediction=manifest.prediction,
        schedule=Schedule(**vars(manifest.schedule)),
        learned_variance=manifest.geometry.learned_variance,
        eta=settings.eta,
        shift=settings.shift,
    )
    if table.stochastic and not manifest.geometry.stochastic:
        raise ValueError(
            f"the bundle was exported for deterministic samplers, and {table.name!r} takes noise; "
            "choose ddim or dpm-solver++, or export again without --deterministic"
        )
    return table
