"""A measured rollout: the cold first chunk, warm-up, then chunks from an empty cache to a wrapped one."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import BackendError
from ...hosts import needs_extra
from ...runtime.sampling.session_arguments import session_arguments
from .nvtx import NvtxRanges
from .recorder import Recorder

if TYPE_CHECKING:
    from ...bundle import Geometry
    from ...runtime.session.chunk import Chunk, Timings
    from ...runtime.session.model import Model
    from ...runtime.session.session import Session
    from .recorder import Span
    from .settings import Settings

__all__ = ["Measurement", "Rollout", "default_chunks", "measure"]


@dataclass
class Measurement:
    """Raw measurements of one rollout.

    Attributes:
        sampler: The sampler.
        steps: Denoising steps.
        generated_frames: Latent frames generated since the cold chunk, including the warm-up.
        chunks: Number of measured chunks.
        cold_ms: Time from the request of a session to the first delivered chunk.
        warm_ms: Time from the given frames to the first delivered chunk, after the warm-up.
        wall_ms: Wall time of the measured loop.
        cached_frames: Latent frames in the cache at the denoising of each chunk.
        timings: Timings of each chunk.
        delivered_ms: Time of each chunk's delivery, since the start of the loop.
        spans: Spans of the measured loop.
        recorder: Recorder of the loop.
        cache_nbytes: Size of the KV cache.
        device_used_nbytes: Memory in use on the whole GPU at the end of the loop; None on the host.
    """

    sampler: str
    steps: int
    cold_ms: float
    warm_ms: float
    recorder: Recorder
    cache_nbytes: int
    generated_frames: int = 0
    chunks: int = 0
    wall_ms: float = 0.0
    cached_frames: list[int] = field(default_factory=list)
    timings: list[Timings] = field(default_factory=list)
    delivered_ms: list[float] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    device_used_nbytes: int | None = None


class Rollout:
    """A session with given frames that restarts where positions end, and delivers chunks as for a user.

    Attributes:
        session: The session.
        decodes: Whether chunks are decoded before they are delivered.
    """

    def __init__(self, model: Model, settings: Settings) -> None:
        """Create the session; no graph runs yet."""
        self._geometry = model.manifest.geometry
        self._given = _make_frames(model, settings)
        arguments = session_arguments(settings)
        arguments.setdefault("text", _make_prompt(model, settings.seed))
        self.session: Session = model.session(seed=settings.seed, **arguments)
        self.decodes = settings.decoding != "off" and model.codec is not None

    def start(self) -> None:
        """Restart from the given frames."""
        self.session.start(self._given)

    def step(self) -> Chunk:
        """Generate a chunk; restart first where absolute positions are at their end."""
        g = self._geometry
        limit = g.positions.limit
        if limit is not None and self.session.next_latent_frame + g.chunk_frames > limit:
            self.start()
        return self.session.step()

    def deliver(self) -> Chunk:
        """Generate a chunk, and decode it if chunks are decoded."""
        chunk = self.step()
        if self.decodes:
            _ = chunk.pictures
        return chunk


def default_chunks(geometry: Geometry) -> int:
    """Return the number of chunks that fill the cache from one frame and wrap it twice, at least 10."""
    return max(10, -(-geometry.slots // geometry.chunk_frames) + 2)


def measure(model: Model, settings: Settings) -> Measurement:
    """Measure one rollout.

    Raises:
        VdmrtError: The model fails.
        ValueError: The sampler does not fit the model.
        BackendError: NVTX ranges were requested and the package nvtx is not installed.
    """
    began = time.perf_counter()
    rollout = Rollout(model, settings)
    with rollout.session as session:
        rollout.start()
        rollout.deliver()
        cold_ms = _since(began)
        for _ in range(settings.warmup):
            rollout.deliver()
        chunks = settings.chunks or default_chunks(model.manifest.geometry)
        # Capacity for every span of the loop: steps, stages and chunks. A run by --duration keeps the last ones.
        recorder = Recorder(capacity=max(4096, chunks * (session.table.steps + 8)))
        found = Measurement(session.table.name, session.table.steps, cold_ms, 0.0, recorder, session.lane.cache_nbytes)
        recorder.attach(session)
        if settings.nvtx:
            _open_ranges().attach(session)
        _run(rollout, settings, chunks, found)
        if not session.lane.device.is_host:
            free, total = session.lane.device.memory_info()
            found.device_used_nbytes = total - free
        found.generated_frames = (1 + settings.warmup + found.chunks) * session.lane.geometry.chunk_frames
    return found


def _open_ranges() -> NvtxRanges:
    with needs_extra("profile", "vdmrt profile --nvtx", fail=BackendError):
        return NvtxRanges()


def _run(rollout: Rollout, settings: Settings, chunks: int, found: Measurement) -> None:
    slots, recorder = rollout.session.lane.geometry.slots, found.recorder
    asked = time.perf_counter()
    rollout.start()
    # The records of the start (encoding, and a fill of another length) are not part of the loop.
    encode = recorder.distributions["encode"].recent()
    recorder.clear()
    for milliseconds in encode:
        recorder.distributions["encode"].record(milliseconds)
    began = time.perf_counter()
    first_span_ms = recorder.now_ms()

    def deliver() -> None:
        found.delivered_ms.append(_since(began))

    with _Delivery(rollout, settings.decoding == "overlapped", deliver) as hand_over:
        while found.chunks < chunks or (settings.duration is not None and _since(began) < settings.duration * 1e3):
            chunk = rollout.step()
            found.cached_frames.append(min(chunk.first_latent_frame, slots))
            found.timings.append(chunk.timings)
            found.chunks += 1
            hand_over(chunk)
    found.wall_ms = _since(began)
    found.warm_ms = found.delivered_ms[0] + (began - asked) * 1e3
    found.spans = [span for span in recorder.spans() if span.begin_ms >= first_span_ms]


class _Delivery:
    """Decoder of chunks, in this thread or in another one while the next chunk is made; at most one chunk waits."""

    def __init__(self, rollout: Rollout, overlapped: bool, deliver: Callable[[], None]) -> None:
        self._decodes = rollout.decodes
        self._pool = ThreadPoolExecutor(1) if overlapped and rollout.decodes else None
        self._pending: Future[None] | None = None
        self._deliver = deliver

    def __enter__(self) -> Callable[[Chunk], None]:
        return self._hand_over

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        if self._pending is not None and error[0] is None:
            self._pending.result()

    def _hand_over(self, chunk: Chunk) -> None:
        if self._pool is None:
            self._decode(chunk)
            return
        if self._pending is not None:
            self._pending.result()
        self._pending = self._pool.submit(self._decode, chunk)

    def _decode(self, chunk: Chunk) -> None:
        if self._decodes:
            _ = chunk.pictures
        self._deliver()


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3


def _make_frames(model: Model, settings: Settings) -> npt.NDArray[Any]:
    """Return one given frame: a picture if the bundle has a codec, so that encoding is measured."""
    rng = np.random.default_rng(settings.seed)
    if model.codec is not None and settings.decoding != "off":
        return rng.integers(0, 256, (1, *model.codec.picture_size, 3), np.uint8)
    return rng.standard_normal((1, *model.manifest.geometry.latent_shape)).astype(np.float32)


def _make_prompt(model: Model, seed: int) -> npt.NDArray[Any] | None:
    g = model.manifest.geometry
    if g.text_width == 0:
        return None
    rng = np.random.default_rng(seed)
    return rng.standard_normal((g.text_tokens, g.text_width)).astype(np.float32)
