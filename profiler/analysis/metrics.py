"""Prometheus metrics of running sessions; dashboard.json in this folder shows them in Grafana."""

from __future__ import annotations

import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bundle import Stage

if TYPE_CHECKING:
    from ...runtime.session.chunk import Chunk
    from ...runtime.session.session import Session

__all__ = ["DASHBOARD", "Metrics"]

DASHBOARD = Path(__file__).with_name("dashboard.json")
# Seconds, from a fast step on a large GPU to a slow chunk on a CPU: each about 1.6 times the one before.
_BUCKETS = (
    0.0005, 0.001, 0.0016, 0.0025, 0.004, 0.0063, 0.01, 0.016, 0.025, 0.04, 0.063, 0.1, 0.16, 0.25, 0.4, 0.63,
    1.0, 1.6, 2.5, 4.0, 6.3, 10.0, 16.0, 25.0, 60.0,
)  # fmt: skip


class Metrics:
    """Histograms and counters shared by all watched sessions; created once for each process and model.

    ``vdmrt_stage_seconds{model,stage}`` (stages "step", "noise", "fill", "scatter", "encode", "decode"),
    ``vdmrt_chunk_seconds{model}``, ``vdmrt_chunk_interval_seconds{model}``, ``vdmrt_first_chunk_seconds{model}``,
    ``vdmrt_chunks_total{model}``, ``vdmrt_latent_frames_total{model}``, ``vdmrt_deadlines_missed_total{model}``,
    ``vdmrt_sessions{model}`` and ``vdmrt_kv_cache_bytes{model}``.
    """

    def __init__(self, model: str, *, target_fps: float | None = None, registry: Any = None) -> None:
        """Register the metrics.

        Args:
            model: Value of their label ``model``.
            target_fps: Latent frames a second; a chunk that takes longer than its playing time misses its deadline.
            registry: A ``CollectorRegistry``; None selects prometheus_client's default.

        Raises:
            ImportError: prometheus_client is not installed; pip install prometheus-client.
            ValueError: The registry contains these metrics already.
        """
        from prometheus_client import REGISTRY, Counter, Gauge, Histogram  # optional

        kept = REGISTRY if registry is None else registry

        def histogram(name: str, what: str, *labels: str) -> Histogram:
            return Histogram(name, what, ("model", *labels), registry=kept, buckets=_BUCKETS)

        def counter(name: str, what: str) -> Counter:
            return Counter(name, what, ("model",), registry=kept).labels(model)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(name, what, ("model",), registry=kept).labels(model)

        stages = histogram("vdmrt_stage_seconds", "Time of one stage of a chunk", "stage")
        self.chunk = histogram("vdmrt_chunk_seconds", "Time of a chunk without its codec").labels(model)
        self.interval = histogram("vdmrt_chunk_interval_seconds", "Time between a session's chunks").labels(model)
        self.first = histogram("vdmrt_first_chunk_seconds", "Time from a start to its first chunk").labels(model)
        self.chunks = counter("vdmrt_chunks", "Chunks made")
        self.frames = counter("vdmrt_latent_frames", "Latent frames made")
        self.missed = counter("vdmrt_deadlines_missed", "Chunks that took longer than they play")
        self.sessions = gauge("vdmrt_sessions", "Watched sessions that are open")
        self.cache = gauge("vdmrt_kv_cache_bytes", "KV cache of the lanes of watched sessions, and their undo logs")
        names = ("step", "noise", Stage.DENOISE, Stage.FILL, "scatter", "encode", "decode")
        self.stages = {name: stages.labels(model, name) for name in names}
        self.target_fps = target_fps
        self._watched: weakref.WeakSet[Session] = weakref.WeakSet()
        self._lock = threading.Lock()
        self.sessions.set_function(lambda: sum(not session.closed for session in self._listed()))
        self.cache.set_function(self._count_cache)

    def watch(self, session: Session) -> Session:
        """Observe a session from now on, and return it. It must have no other observer."""
        session.observer = _Watcher(self)
        with self._lock:
            self._watched.add(session)
        return session

    def _listed(self) -> list[Session]:
        with self._lock:
            return list(self._watched)

    def _count_cache(self) -> float:
        sessions = [session for session in self._listed() if not session.closed]
        lanes = {id(session.lane): session.lane for session in sessions}
        undo_nbytes = sum(session.undo_nbytes for session in sessions)
        return float(sum(lane.cache_nbytes for lane in lanes.values()) + undo_nbytes)


class _Watcher:
    """The observer of one session."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begun: dict[str, float] = {}
        self._asked: float | None = None
        self._arrived = 0.0
        self._in_chunk = False

    def begin(self, stage: str) -> None:
        """Record the start of a stage."""
        self._begun[stage] = now = time.perf_counter()
        if stage == "noise":
            self._in_chunk = True
        elif self._asked is None and not self._in_chunk and stage in ("encode", Stage.FILL):
            self._asked = now

    def step(self, done: int) -> None:
        """Record the end of a denoising step."""

    def end(self, stage: str) -> None:
        """Record the end of a stage."""
        # Other stages are in the chunk's timings, by device events; a start has none.
        if stage in ("encode", "decode"):
            self._metrics.stages[stage].observe(time.perf_counter() - self._begun[stage])

    def finish(self, chunk: Chunk) -> None:
        """Count a chunk."""
        m, timings, now = self._metrics, chunk.timings, time.perf_counter()
        for milliseconds in timings.denoise_ms:
            m.stages["step"].observe(milliseconds / 1e3)
        m.stages[Stage.DENOISE].observe(sum(timings.denoise_ms) / 1e3)
        m.stages["noise"].observe(timings.noise_ms / 1e3)
        m.stages[Stage.FILL].observe(timings.fill_ms / 1e3)
        m.stages["scatter"].observe(timings.scatter_ms / 1e3)
        m.chunk.observe(timings.total_ms / 1e3)
        m.chunks.inc()
        m.frames.inc(len(chunk.latents))
        if m.target_fps is not None and timings.total_ms / 1e3 > len(chunk.latents) / m.target_fps:
            m.missed.inc()
        if chunk.index:
            m.interval.observe(now - self._arrived)
        elif self._asked is not None:
            m.first.observe(now - self._asked)
        self._arrived, self._asked, self._in_chunk = now, None, False
