"""Denoising steps of two models, timed alternately at a full cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...profiler.analysis.compare import Side, compare, stay_open
from ...profiler.measuring.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...profiler.report.report import Ratio
    from ...runtime.session.model import Model

__all__ = ["PAIRS", "STEPS", "time_in_turn"]

PAIRS, STEPS = 15, 3


def time_in_turn(
    model: Model, other: Model, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Ratio:
    """Time denoising steps of two models alternately at a full cache; return the other's time over the model's."""
    g = model.manifest.geometry
    settings = Settings(
        Path(), steps=min(STEPS, g.max_steps), warmup=-(-g.slots // g.chunk_frames), decoding="off", roofline=False
    )
    sides = [Side(settings, stay_open(one)) for one in (model, other)]
    ratios = compare(sides[0], sides[1], what=str(other.precision), pairs=PAIRS, on_progress=on_progress).ratios
    return next(one for one in ratios if one.what == "denoising step")
