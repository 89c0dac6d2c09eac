"""Comparison of two precisions over the same rollouts: free-running, where errors accumulate, and teacher-forced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import CalibrationError
from .forced import TeacherForced
from .metrics import compare_latents, compare_pictures

if TYPE_CHECKING:
    from ...bundle import Manifest
    from ...runtime.session.model import Model
    from ...runtime.session.session import Session
    from ..graph.cache_scales import CacheScales

__all__ = [
    "FIGURES",
    "PICTURE_FIGURES",
    "Comparison",
    "Contender",
    "Curve",
    "Latents",
    "check_alike",
    "compare_rollouts",
    "given_frames",
]

# Figures of a comparison with a teacher-forced run, and the additional ones of pictures.
FIGURES = ("free-psnr", "drift", "teacher-psnr", "teacher-relative-l2", "cache-relative-l2", "teacher-drift")
PICTURE_FIGURES = ("free-picture-psnr", "teacher-picture-psnr", "free-picture-ssim", "teacher-picture-ssim")

Latents = npt.NDArray[np.float32]
Curve = dict[str, list[float]]


@dataclass(frozen=True)
class Contender:
    """Model that is compared with the reference.

    Attributes:
        model: Loaded model, of any backend and device.
        scales: Scales of its cache, empty for floating point; None skips the teacher-forced run.
        given: Function applied to the latent frames that its rollout continues from, or None.
    """

    model: Model
    scales: Mapping[str, CacheScales] | None
    given: Callable[[Latents], Latents] | None = None


@dataclass(frozen=True)
class Comparison:
    """Errors of a precision by autoregressive step.

    Attributes:
        free: Metrics of free-running rollouts, the mean over seeds, one value for each chunk.
        teacher: Metrics with each chunk made from the reference's cache; empty without a teacher-forced run.
        cache: Relative L2 of K and V that a fill writes, over the reference's latents; one value for each chunk.
        free_by_seed: PSNR of each seed's free-running chunks, [seeds, chunks].
        frames: Pixel frames of the first seed, the reference's and the contender's, or None without a codec.
    """

    free: Curve
    teacher: Curve
    cache: list[float]
    free_by_seed: list[list[float]]
    frames: tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None

    def figures(self) -> dict[str, float]:
        """Return the figures that gates may be set on."""
        found = {"free-psnr": float(np.mean(self.free["psnr"])), "drift": drift(self.free["rmse"])}
        if self.teacher:
            found |= {
                "teacher-psnr": float(np.mean(self.teacher["psnr"])),
                "teacher-relative-l2": float(np.mean(self.teacher["relative_l2"])),
                "cache-relative-l2": float(np.mean(self.cache)),
                "teacher-drift": drift(self.teacher["rmse"]),
            }
        for name in ("picture_psnr", "picture_ssim"):
            for side, curve in (("free", self.free), ("teacher", self.teacher)):
                if name in curve:
                    found[f"{side}-{name.replace('_', '-')}"] = float(np.mean(curve[name]))
        return found

    @classmethod
    def mean(cls, several: Sequence[Comparison]) -> Comparison:
        """Return the mean of comparisons with equal numbers of rollouts."""
        return cls(
            free=_mean_curve([one.free for one in several]),
            teacher=_mean_curve([one.teacher for one in several]),
            cache=np.mean([one.cache for one in several], axis=0).tolist(),
            free_by_seed=[curve for one in several for curve in one.free_by_seed],
            frames=several[0].frames,
        )


def drift(errors: Sequence[float]) -> float:
    """Return the ratio of late to early errors: the mean from step 11 on over the mean of steps 4 to 10.

    A shorter rollout is split in the same proportions: the last half over the rest, without the first three twentieths.
    """
    count = len(errors)
    half, first = count // 2, 3 * count // 20
    early = float(np.mean(errors[first:half])) if half > first else float(np.mean(errors))
    return float(np.mean(errors[half:])) / max(early, 1e-12)


def given_frames(model: Model, clips: Sequence[Latents], seeds: Sequence[int]) -> list[Latents]:
    """Return the given latent frames of each seed's rollout: a chunk and one more of its clip, or seeded normals."""
    g = model.manifest.geometry
    count = min(g.chunk_frames + 1, g.slots)
    if clips:
        return [clips[place % len(clips)][:count] for place in range(len(seeds))]
    return [np.random.default_rng(seed).standard_normal((count, *g.latent_shape)).astype(np.float32) for seed in seeds]


def compare_rollouts(
    reference: Model,
    contenders: Mapping[str, Contender],
    *,
    given: Sequence[Latents],
    seeds: Sequence[int],
    chunks: int,
    options: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Comparison]:
    """Run every seed on the reference once and on every contender, with the same noise.

    Args:
        reference: Float32 reference.
        contenders: Models to compare, by name.
        given: Latent frames that each rollout continues from.
        seeds: Seeds of all noise, one for each rollout.
        chunks: Autoregressive steps.
        options: Further arguments of :meth:`Model.session`.
        on_progress: Called with the denoising steps done by all models and their number.

    Returns:
        The comparison of each contender, by its name.
    """
    rows: dict[str, list[_Row]] = {name: [] for name in contenders}
    given_options = options or {}
    count = _StepCount(on_progress, len(seeds) * (1 + len(contenders)) * chunks)
    for seed, first in zip(seeds, given, strict=True):
        with ExitStack() as opened:
            forced = {
                name: TeacherForced(
                    one.model, opened.enter_context(one.model.session(seed=seed, **given_options)), one.scales
                )
                for name, one in contenders.items()
                if one.scales is not None
            }
            wanted, made = _reference_rollout(reference, forced, first, seed, chunks, given_options, count)
        for name, one in contenders.items():
            with one.model.session(seed=seed, **given_options) as session:
                session.start(first if one.given is None else one.given(first))
                free = np.stack([chunk.latents for chunk in session.stream(chunks, on_step=count.of(session))])
            rows[name].append(_Row(wanted, free, made.get(name, _Forced())))
    return {name: _compare_rows(reference, own) for name, own in rows.items()}


class _StepCount:
    """Counter of denoising steps over several sessions."""

    def __init__(self, on_progress: Callable[[int, int], None], chunks: int) -> None:
        self._on_progress, self._chunks, self._done = on_progress, chunks, 0

    def of(self, session: Session) -> Callable[[int], None]:
        """Return the callback of a session, called after each step."""

        def on_step(done: int) -> None:
            self._done += 1
            self._on_progress(self._done, self._chunks * session.table.steps)

        return on_step


@dataclass(frozen=True)
class _Forced:
    """The chunks of a teacher-forced rollout, and the error of each fill."""

    latents: list[Latents] = field(default_factory=list)
    cache: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Row:
    """The chunks of one rollout: the reference's, the free-running ones and the teacher-forced ones."""

    wanted: Latents
    made: Latents
    forced: _Forced


def _compare_rows(reference: Model, rows: Sequence[_Row]) -> Comparison:
    peak = float(np.ptp(np.stack([row.wanted for row in rows])))
    free = [_measure(reference, row.made, row.wanted, peak) for row in rows]
    teacher = [_measure(reference, row.forced.latents, row.wanted, peak) for row in rows if row.forced.latents]
    return Comparison(
        free=_mean_curve(free),
        teacher=_mean_curve(teacher),
        cache=np.mean([row.forced.cache for row in rows], axis=0).tolist(),
        free_by_seed=[curve["psnr"] for curve in free],
        frames=_decode_both(reference, rows[0]),
    )


def _reference_rollout(
    model: Model,
    forced: Mapping[str, TeacherForced],
    first: Latents,
    seed: int,
    chunks: int,
    options: Mapping[str, Any],
    count: _StepCount,
) -> tuple[Latents, dict[str, _Forced]]:
    """Return the reference's chunks, and the results of each teacher-forced session."""
    wanted: list[Latents] = []
    found = {name: _Forced() for name in forced}
    with model.session(seed=seed, **options) as session:
        session.start(first)
        for _ in range(chunks):
            before = session.snapshot() if forced else None
            made = session.step(on_step=count.of(session)).latents
            wanted.append(made)
            for name, one in forced.items():
                assert before is not None
                found[name].latents.append(one.make_chunk(before).latents)
                found[name].cache.append(one.cache_error(before, made, session))
    return np.stack(wanted), found


def check_alike(reference: Model, model: Model) -> None:
    """Check that two models have the same geometry and were trained for the same prediction and schedule.

    Raises:
        CalibrationError: They differ.
    """
    one, other = (_traits(each.manifest) for each in (reference, model))
    differing = [f"{name} {one[name]} and {other[name]}" for name in one if one[name] != other[name]]
    if differing:
        raise CalibrationError(f"the two bundles are of different models: {', '.join(differing)}")


def _traits(manifest: Manifest) -> dict[str, Any]:
    """Return the properties that all bundles of a model share, by name."""
    schedule = {f"schedule.{name}": value for name, value in dataclasses.asdict(manifest.schedule).items()}
    g = manifest.geometry
    sizes = {**dataclasses.asdict(g), "slots": g.slots, "sinks": g.policy.sinks}
    del sizes["policy"]
    return {"prediction": manifest.prediction, **schedule, **sizes}


def _measure(model: Model, made: Iterable[Latents], wanted: Iterable[Latents], peak: float) -> Curve:
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
    return {name: np.mean([curve[name] for curve in curves], axis=0).tolist() for name in (curves or [{}])[0]}


def _decode_both(model: Model, row: _Row) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None:
    """Return the last pixel frame of every chunk, the reference's and the contender's."""
    if model.codec is None:
        return None
    shown = [np.concatenate([model.codec.decode(chunk)[-1:] for chunk in made]) for made in (row.wanted, row.made)]
    return shown[0], shown[1]
