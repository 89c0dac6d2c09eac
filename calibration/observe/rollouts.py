"""Seeded rollouts for observation, covering every state of the cache and every part of the denoising."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle import Stage
from ...errors import CalibrationError
from ...runtime.session.advance import advance
from .data import fillable_frames
from .tap import Array

if TYPE_CHECKING:
    from ...bundle import Geometry
    from ...runtime.session.model import Model
    from ...runtime.session.session import Session
    from .data import CalibrationSet
    from .tap import TappedBackend

__all__ = ["PARTS", "Rollout", "Strata", "cache_state", "plan_rollouts", "run_rollout", "wrapping_chunks"]

# A chunk's denoising steps are sampled once in each of this many equal parts.
PARTS = 3
# Chunks beyond the one that fills the cache: enough to see it overwrite itself.
_BEYOND = 2

Observer = Callable[[str, Mapping[str, Array]], None]


@dataclass(frozen=True)
class Rollout:
    """One run of all requests of a lane together.

    Attributes:
        index: Its number.
        clips: Index of the clip that each request continues from.
        lead: Latent frames given first; their fill is padded to a chunk and is not observed.
        given: Latent frames given after them, whole chunks.
        chunks: Autoregressive steps.
    """

    index: int
    clips: tuple[int, ...]
    lead: int
    given: int
    chunks: int


@dataclass
class Strata:
    """Counts of observed runs, by ``fill, empty`` or ``denoise, wrapped, part 2 of 3``."""

    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str) -> None:
        """Count one run."""
        self.counts[name] = self.counts.get(name, 0) + 1


def plan_rollouts(geometry: Geometry, data: CalibrationSet, samples: int, steps: int) -> list[Rollout]:
    """Plan rollouts in which at least ``samples`` denoising runs are observed.

    They begin with one to as many given chunks as fit, in turn, so that the cache holds generated latent frames in one
    and real ones in another, and each continues until the cache has wrapped. Where the slots are not a multiple of a
    chunk, every other rollout begins with the remainder, so that an exactly full cache is observed.

    Raises:
        CalibrationError: ``samples`` is below 1, or absolute positions leave no room for one chunk.
    """
    if samples < 1:
        raise CalibrationError(f"--samples must be at least 1, got {samples}")
    wanted = -(-samples // min(PARTS, steps))
    planned: list[Rollout] = []
    while wanted > 0:
        planned.append(_plan_one(geometry, data, len(planned)))
        wanted -= planned[-1].chunks
    return planned


def _plan_one(g: Geometry, data: CalibrationSet, index: int) -> Rollout:
    clips = tuple((index * g.requests + request) % len(data.clips) for request in range(g.requests))
    room = min(*(len(data.clips[clip]) for clip in clips), fillable_frames(g))
    lead = g.slots % g.chunk_frames if index % 2 else 0
    lead = lead if lead + g.chunk_frames <= room else 0
    given = (1 + index % max(1, (room - lead) // g.chunk_frames)) * g.chunk_frames
    chunks = max(1, -(-(g.slots - lead - given) // g.chunk_frames)) + _BEYOND
    limit = g.positions.limit
    if limit is not None:
        chunks = min(chunks, (limit - lead - given) // g.chunk_frames)
        if room < given or chunks < 1:
            raise CalibrationError("absolute positions leave no room for a given and a generated chunk")
    return Rollout(index, clips, lead, given, chunks)


def run_rollout(
    model: Model,
    backend: TappedBackend,
    rollout: Rollout,
    data: CalibrationSet,
    observe: Observer,
    *,
    seed: int,
    options: Mapping[str, Any] | None = None,
    strata: Strata,
    on_step: Callable[[], None] = lambda: None,
) -> None:
    """Run one rollout and show every fill and the sampled denoising runs to ``observe``.

    Args:
        model: Float32 model, loaded on ``backend``.
        backend: Backend; its tap is set during the rollout.
        rollout: The rollout to run.
        data: The set of its clips.
        observe: Called with the stage and every tensor of the run.
        seed: Seed of all noise and of the choice of steps.
        options: Further arguments of :meth:`Model.session`.
        strata: Counts to increment.
        on_step: Called after each denoising step.
    """
    drawn = np.random.default_rng([seed, rollout.index])
    geometry = model.manifest.geometry
    sessions = list(_sessions(model, rollout, seed, options or {}))
    watched: dict[str, str] = {}

    def tap(stage: str, tensors: Mapping[str, Array]) -> None:
        if stage in watched:
            strata.count(watched[stage])
            observe(stage, tensors)

    backend.tap = tap
    try:
        for session, clip in zip(sessions, rollout.clips, strict=True):
            _give(session, geometry, data.clips[clip], rollout, watched)
        for _ in range(rollout.chunks):
            _observed_chunk(sessions, geometry, drawn, watched, on_step)
    finally:
        backend.tap = None
        for session in sessions:
            session.close()


def cache_state(geometry: Geometry, written: int) -> str:
    """Return the state of a cache after ``written`` latent frames: empty, filling, full or wrapped."""
    if written == 0:
        return "empty"
    if written < geometry.slots:
        return "filling"
    return "full" if written == geometry.slots else "wrapped"


def wrapping_chunks(geometry: Geometry) -> int:
    """Return the chunks that fill the cache from one latent frame, wrap it and read it, as far as positions allow."""
    g = geometry
    chunks = -(-g.slots // g.chunk_frames) + 1
    if g.positions.limit is not None:
        chunks = min(chunks, (g.positions.limit - 1) // g.chunk_frames)
    return max(1, chunks)


def _sessions(model: Model, rollout: Rollout, seed: int, options: Mapping[str, Any]) -> Iterator[Session]:
    for request in range(len(rollout.clips)):
        yield model.session(seed=seed + 1000 * rollout.index + request, **options)


def _give(session: Session, geometry: Geometry, clip: Array, rollout: Rollout, watched: dict[str, str]) -> None:
    """Give the clip's first latent frames, chunk by chunk; observe the fill of every whole chunk."""
    watched.pop(Stage.FILL, None)
    if rollout.lead:
        session.start(clip[: rollout.lead])
    for begin in range(rollout.lead, rollout.lead + rollout.given, geometry.chunk_frames):
        watched[Stage.FILL] = f"{Stage.FILL}, {cache_state(geometry, begin)}"
        (session.extend if begin else session.start)(clip[begin : begin + geometry.chunk_frames])


def _observed_chunk(
    sessions: list[Session],
    geometry: Geometry,
    drawn: np.random.Generator,
    watched: dict[str, str],
    on_step: Callable[[], None],
) -> None:
    """Generate one chunk in every session; observe one denoising step in each part, and every fill."""
    steps = sessions[0].table.steps
    state = cache_state(geometry, sessions[0].next_latent_frame)
    parts = np.array_split(np.arange(steps), min(PARTS, steps))
    sampled = {
        int(drawn.choice(part)): f"{Stage.DENOISE}, {state}, part {i + 1} of {len(parts)}"
        for i, part in enumerate(parts)
    }

    def arm(step: int) -> None:
        watched.pop(Stage.DENOISE, None)
        if step in sampled:
            watched[Stage.DENOISE] = sampled[step]

    def stepped(done: int) -> None:
        arm(done)
        on_step()

    watched[Stage.FILL] = f"{Stage.FILL}, {state}"
    arm(0)
    advance(sessions, on_step=stepped)
