"""Two precisions over the same rollouts: free-running, where errors come back through the cache, and teacher-forced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CalibrationError
from ..runtime.model import Model
from .metrics import compare_latents, compare_pictures
from .shadow import Shadow
from .tap import TappedBackend

__all__ = ["Comparison", "Curve", "Latents", "check_alike", "compare_rollouts", "given_frames"]

Latents = npt.NDArray[np.float32]
Curve = dict[str, list[float]]


@dataclass(frozen=True)
class Comparison:
    """What a precision costs, by autoregressive step.

    Attributes:
        free: Metrics of free-running rollouts, the mean over seeds, one value for each chunk.
        teacher: The same where each chunk is made from the reference's cache.
        cache: Relative L2 of K and V that a fill writes, over the reference's latents; one value for each chunk.
        free_by_seed: PSNR of each seed's free-running chunks, [seeds, chunks].
        frames: Pixel frames of the first seed, the reference's and the others', or None without a codec.
    """

    free: Curve
    teacher: Curve
    cache: list[float]
    free_by_seed: list[list[float]]
    frames: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None

    def figures(self) -> dict[str, float]:
        """Return the figures that gates may be set on."""
        found = {
            "free-psnr": float(np.mean(self.free["psnr"])),
            "teacher-psnr": float(np.mean(self.teacher["psnr"])),
            "teacher-relative-l2": float(np.mean(self.teacher["relative_l2"])),
            "cache-relative-l2": float(np.mean(self.cache)),
            "drift": drift(self.free["rmse"]),
            "teacher-drift": drift(self.teacher["rmse"]),
        }
        for name in ("picture_psnr", "picture_ssim"):
            if name in self.free:
                short = name.replace("_", "-")
                found |= {f"free-{short}": float(np.mean(self.free[name]))}
                found |= {f"teacher-{short}": float(np.mean(self.teacher[name]))}
        return found


def drift(errors: Sequence[float]) -> float:
    """Return how much larger errors are at the end than early on: mean of steps 11 on over that of steps 4 to 10.

    A shorter rollout is cut in the same proportions: the last half over the rest, the first three twentieths left out.
    """
    count = len(errors)
    half, first = count // 2, 3 * count // 20
    early = float(np.mean(errors[first:half])) if half > first else float(np.mean(errors))
    return float(np.mean(errors[half:])) / max(early, 1e-12)


def given_frames(model: Model, clips: Sequence[Latents], seeds: Sequence[int]) -> list[Latents]:
    """Return what each seed's rollout goes on from: a chunk and one of its clip's latent frames, or seeded normals."""
    g = model.manifest.geometry
    count = min(g.chunk_frames + 1, g.slots)
    if clips:
        return [clips[place % len(clips)][:count] for place in range(len(seeds))]
    return [np.random.default_rng(seed).standard_normal((count, *g.latent_shape)).astype(np.float32) for seed in seeds]


def compare_rollouts(
    reference: Model,
    tapped: TappedBackend,
    model: Model,
    shadow: Shadow,
    *,
    given: Sequence[Latents],
    seeds: Sequence[int],
    chunks: int,
    options: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Run every seed on both models with the same noise.

    Args:
        reference: What is right, on ``tapped``.
        tapped: Its backend.
        model: What is judged, free-running.
        shadow: The same graphs as ``model``'s, for the teacher-forced run.
        given: Latent frames that each rollout goes on from.
        seeds: Of all noise, one for each rollout.
        chunks: Autoregressive steps.
        options: Further arguments of :meth:`Model.session`.
        on_progress: Called with the chunks compared and their number.

    """
    rows: list[tuple[Latents, Latents, Latents]] = []
    cache: list[list[float]] = []
    for place, (seed, first) in enumerate(zip(seeds, given, strict=True)):
        wanted, forced, filled = _forced_rollout(reference, tapped, shadow, first, seed, chunks, options or {})
        with model.session(seed=seed, **(options or {})) as session:
            session.start(first)
            made = np.stack([chunk.latents for chunk in session.stream(chunks)])
        rows.append((wanted, made, forced))
        cache.append(filled)
        on_progress((place + 1) * chunks, len(seeds) * chunks)
    peak = float(np.ptp(np.stack([wanted for wanted, _, _ in rows])))
    free = [_measure(reference, made, wanted, peak) for wanted, made, _ in rows]
    teacher = [_measure(reference, forced, wanted, peak) for wanted, _, forced in rows]
    return Comparison(
        free=_mean_curve(free),
        teacher=_mean_curve(teacher),
        cache=np.mean(cache, axis=0).tolist(),
        free_by_seed=[curve["psnr"] for curve in free],
        frames=_decode_both(reference, rows[0]),
    )


def _forced_rollout(
    model: Model,
    tapped: TappedBackend,
    shadow: Shadow,
    first: Latents,
    seed: int,
    chunks: int,
    options: Mapping[str, Any],
) -> tuple[Latents, Latents, list[float]]:
    """Return the reference's chunks, the shadow's, and the relative error of what the shadow would have cached."""
    wanted, forced, cached = [], [], []
    with model.session(seed=seed, **options) as session:
        session.start(first)
        tapped.tap = shadow.follow
        try:
            for chunk in session.stream(chunks):
                wanted.append(chunk.latents)
                forced.append(shadow.latent_beside(chunk.latents))
                error, norm = shadow.cache_error[-1]
                cached.append(float(np.sqrt(error / max(norm, 1e-12))))
        finally:
            tapped.tap = None
    return np.stack(wanted), np.stack(forced), cached


def check_alike(reference: Model, model: Model) -> None:
    """Check that two models have the same geometry and were trained for the same prediction and schedule.

    Raises:
        CalibrationError: They differ.
    """
    for name in ("geometry", "prediction", "schedule"):
        one, other = getattr(reference.manifest, name), getattr(model.manifest, name)
        if one != other:
            raise CalibrationError(f"the two bundles differ in {name}: {one} and {other}; they are different models")


def _measure(model: Model, made: Latents, wanted: Latents, peak: float) -> Curve:
    """Return every metric by chunk."""
    curve: Curve = {}
    for one, other in zip(made, wanted, strict=True):
        measured = compare_latents(one, other, peak)
        if model.codec is not None:
            measured |= compare_pictures(model.codec.decode(one), model.codec.decode(other))
        for name, value in measured.items():
            curve.setdefault(name, []).append(value)
    return curve


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    return {name: np.mean([curve[name] for curve in curves], axis=0).tolist() for name in curves[0]}


def _decode_both(
    model: Model, row: tuple[Latents, Latents, Latents]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None:
    """Return the last pixel frame of every chunk, the reference's and the others'."""
    if model.codec is None:
        return None
    shown = [np.concatenate([model.codec.decode(chunk)[-1:] for chunk in made]) for made in row[:2]]
    return shown[0], shown[1]
