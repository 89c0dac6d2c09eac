"""This against another, chunk by chunk in turn, so that a machine that changes its speed changes it for both."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..model import Model
from .measurement import Rollout
from .report import Comparison, Ratio
from .settings import Settings
from .statistics import median_interval

__all__ = ["compare", "parse_other"]

# An interval of 99 % wants eight pairs; with twelve one outlier on either side does not set its ends.
_LEAST_PAIRS = 12
_READERS: Mapping[str, Callable[[str], object]] = {
    "bundle": Path,
    "backend": str,
    "precision": str,
    "threads": int,
    "steps": int,
    "sampler": str,
}


def parse_other(settings: Settings, text: str) -> Settings:
    """Read what to compare with: a bundle's folder, or settings that differ, such as ``precision=fp16,steps=4``.

    Raises:
        ValueError: A setting is unknown or malformed.
    """
    if "=" not in text or Path(text).exists():
        return dataclasses.replace(settings, bundle=Path(text))
    changed: dict[str, object] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in _READERS:
            raise ValueError(f"--against takes a bundle, or {', '.join(_READERS)} with a value, got {part!r}")
        try:
            changed[name] = _READERS[name](value)
        except ValueError as error:
            raise ValueError(f"--against {name} wants a number, got {value!r}") from error
    return dataclasses.replace(settings, **changed)  # type: ignore[arg-type]  # each value was read by its type


def compare(
    this: tuple[Model, Settings],
    other: tuple[Model, Settings],
    *,
    what: str,
    pairs: int,
    make: tuple[type[Rollout], type[Rollout]] = (Rollout, Rollout),
) -> Comparison:
    """Run chunks of both in turn.

    Args:
        this: A loaded model and its settings.
        other: Another, or the same model with other settings.
        what: What the other is, for people.
        pairs: Neighbouring chunks, 12 at least.
        make: Kinds of rollout, where they are what differs.

    Raises:
        VdmrtError: One of them fails.
    """
    rollouts = make[0](*this), make[1](*other)
    frames = [rollout.session.lane.geometry.chunk_frames for rollout in rollouts]
    alike = frames[0] == frames[1]
    decodes = all(rollout.decodes for rollout in rollouts)
    times: tuple[list[_Times], list[_Times]] = ([], [])
    with rollouts[0].session, rollouts[1].session:
        for rollout in rollouts:
            rollout.decodes = decodes
            rollout.start()
        for number in range(this[1].warmup + 1 + max(pairs, _LEAST_PAIRS)):
            # First one, then the other leads: what comes second in a pair finds other caches.
            for side in (0, 1) if number % 2 else (1, 0):
                found = _time(rollouts[side], 1 if alike else frames[side])
                if number > this[1].warmup:
                    times[side].append(found)
    chunk = "autoregressive step" if alike else "latent frame"
    return Comparison(
        what,
        len(times[0]),
        (
            _ratio(f"{chunk}, codec {'included' if decodes else 'excluded'}", *_each(times, lambda one: one.chunk_ms)),
            _ratio("denoising step", *_each(times, lambda one: one.step_ms)),
            _ratio("cache fill", *_each(times, lambda one: one.fill_ms)),
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Times:
    chunk_ms: float
    step_ms: float
    fill_ms: float


def _time(rollout: Rollout, parts: int) -> _Times:
    """Make a chunk; return the time of one of its ``parts``."""
    began = time.perf_counter()
    timings = rollout.deliver().timings
    chunk_ms = (time.perf_counter() - began) * 1e3
    return _Times(chunk_ms / parts, statistics.median(timings.denoise_ms), timings.fill_ms)


def _each(times: Sequence[list[_Times]], read: Callable[[_Times], float]) -> tuple[list[float], list[float]]:
    return [read(one) for one in times[0]], [read(one) for one in times[1]]


def _ratio(what: str, this: list[float], other: list[float]) -> Ratio:
    ratios = [b / a for a, b in zip(this, other, strict=True)]
    interval = median_interval(ratios)
    return Ratio(
        what,
        statistics.median(this),
        statistics.median(other),
        statistics.median(ratios),
        interval,
        1.0 not in interval,
    )
