"""The recorder: a session observer with preallocated memory, cheap enough for production."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...bundle import Stage
from ..analysis.statistics import Distribution

if TYPE_CHECKING:
    from ...runtime.session.chunk import Chunk
    from ...runtime.session.session import Session

__all__ = ["STAGES", "Recorder", "Span", "measure_union"]

# Stages of spans; "step" is one denoising step, "chunk" one autoregressive step.
STAGES = ("chunk", "step", "noise", Stage.FILL, "scatter", "encode", "decode")
_NUMBER = {stage: number for number, stage in enumerate(STAGES)}
_MS = 1e-6  # of a nanosecond


@dataclass(frozen=True)
class Span:
    """A time span.

    Attributes:
        stage: One of :data:`STAGES`.
        chunk: Number of the chunk; work before a chunk has that chunk's number.
        step: Number of the denoising step, or -1.
        begin_ms: Start on the host's clock, since the recorder was created.
        end_ms: End on the same clock.
    """

    stage: str
    chunk: int
    step: int
    begin_ms: float
    end_ms: float

    @property
    def milliseconds(self) -> float:
        """Duration."""
        return self.end_ms - self.begin_ms


class Recorder:
    """An :class:`~vdmrt.runtime.session.chunk.Observer` of one session; one other thread may decode its last chunk.

    Durations are those of the chunk's :class:`~vdmrt.runtime.Timings` (device events on a GPU); the start and end of
    spans are on the host's clock.

    Attributes:
        distributions: Durations by stage; also "denoise" (all steps of a chunk), "host" (the rest of a chunk),
            "idle" (between two denoising steps) and "arrival" (between two chunks).
    """

    def __init__(self, *, capacity: int = 4096) -> None:
        """Allocate the memory.

        Args:
            capacity: Number of exact durations of each stage, and of spans of all stages.

        Raises:
            ValueError: ``capacity`` is not positive.
        """
        extra = (Stage.DENOISE, "host", "idle", "arrival", "enqueue")
        self.distributions = {name: Distribution(capacity) for name in (*STAGES, *extra)}
        self._stages = array("b", bytes(capacity))
        self._chunks = array("q", bytes(8 * capacity))
        self._steps = array("q", bytes(8 * capacity))
        self._begins = array("q", bytes(8 * capacity))
        self._ends = array("q", bytes(8 * capacity))
        self._step_ends = array("q", bytes(8 * 4096))
        self._origin = time.perf_counter_ns()
        self._begun: dict[str, int] = dict.fromkeys((*STAGES, Stage.DENOISE), 0)
        self._denoised = self._origin
        self._decoding = 0
        self._chunk = 0
        self._lock = threading.Lock()
        self._arrived = 0
        self._spans = 0

    def attach(self, session: Session) -> Recorder:
        """Observe ``session``; return this object."""
        session.observer = self
        return self

    def clear(self) -> None:
        """Remove all records."""
        for distribution in self.distributions.values():
            distribution.clear()
        self._spans = self._arrived = 0

    def now_ms(self) -> float:
        """Return the time on the clock of spans."""
        return (time.perf_counter_ns() - self._origin) * _MS

    def begin(self, stage: str) -> None:
        """Record the start of a stage."""
        if stage == "decode":
            self._decoding = self._chunk - 1
        self._begun[stage] = time.perf_counter_ns()

    def step(self, done: int) -> None:
        """Record the end of a denoising step."""
        self._step_ends[(done - 1) % 4096] = time.perf_counter_ns()

    def end(self, stage: str) -> None:
        """Record the end of a stage."""
        now = time.perf_counter_ns()
        begun = self._begun[stage]
        if stage == Stage.DENOISE:
            self._denoised = now
            return
        self._record(stage, self._decoding if stage == "decode" else self._chunk, -1, begun, now)
        if stage in ("encode", "decode"):
            self.distributions[stage].record((now - begun) * _MS)

    def finish(self, chunk: Chunk) -> None:
        """Record a finished chunk."""
        now = time.perf_counter_ns()
        timings, of = chunk.timings, self.distributions
        steps = timings.denoise_ms
        denoise_ms = sum(steps)
        earlier = self._begun[Stage.DENOISE]
        for index, milliseconds in enumerate(steps):
            of["step"].record(milliseconds)
            end = self._step_ends[index % 4096]
            # The device's and the host's clocks differ: a step must not begin before the previous one ended.
            self._record("step", chunk.index, index, max(earlier, end - int(milliseconds * 1e6)), end)
            earlier = end
        for microseconds in getattr(timings, "enqueue_us", None) or ():
            of["enqueue"].record(microseconds / 1e3)
        of[Stage.DENOISE].record(denoise_ms)
        of["noise"].record(timings.noise_ms)
        of[Stage.FILL].record(timings.fill_ms)
        of["scatter"].record(timings.scatter_ms)
        of["chunk"].record(timings.total_ms)
        idle = (self._denoised - self._begun[Stage.DENOISE]) * _MS - denoise_ms
        of["idle"].record(max(0.0, idle) / len(steps))
        stages_ms = timings.noise_ms + denoise_ms + timings.fill_ms + timings.scatter_ms
        of["host"].record(max(0.0, timings.total_ms - stages_ms))
        self._record("chunk", chunk.index, -1, min(self._begun["noise"], now - int(timings.total_ms * 1e6)), now)
        if self._arrived and chunk.index:
            of["arrival"].record((now - self._arrived) * _MS)
        self._arrived = now
        self._chunk = chunk.index + 1

    def spans(self) -> list[Span]:
        """Return the last spans, at most ``capacity``, in the order of their ends."""
        return sorted(self._held(), key=lambda span: (span.end_ms, -span.begin_ms))

    def _held(self) -> Iterator[Span]:
        for index in range(min(self._spans, len(self._stages))):
            yield Span(
                STAGES[self._stages[index]],
                self._chunks[index],
                self._steps[index],
                (self._begins[index] - self._origin) * _MS,
                (self._ends[index] - self._origin) * _MS,
            )

    def _record(self, stage: str, chunk: int, step: int, begin: int, end: int) -> None:
        with self._lock:
            place = self._spans % len(self._stages)
            self._spans += 1
        self._stages[place] = _NUMBER[stage]
        self._chunks[place] = chunk
        self._steps[place] = step
        self._begins[place] = begin
        self._ends[place] = end


def measure_union(spans: list[Span]) -> float:
    """Return the time in milliseconds that at least one of the spans covers."""
    covered, reached = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.begin_ms):
        covered += max(0.0, span.end_ms - max(span.begin_ms, reached))
        reached = max(reached, span.end_ms)
    return covered
