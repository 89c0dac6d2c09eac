"""The full-size model's denoising step as a session of vdmrt makes it, on either backend."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ..running.settings import load_model
from .chunk import FirstChunk

__all__ = ["VdmrtSteps"]

WARMUP_CHUNKS = 2


class VdmrtSteps:
    """The contender: chunks of a session whose cache is full.

    Attributes:
        runs: The backend's name alone.
        bundle: What was loaded.
    """

    def __init__(self, folder: Path, backend: str, device: str) -> None:
        started = time.perf_counter()
        self.runs = [f"vdmrt {backend}"]
        self._model = load_model(folder, backend, "fp16", device)
        self._loaded_s = time.perf_counter() - started
        self.bundle = self._model.bundle
        self._sessions: dict[int, Any] = {}

    def ready(self) -> dict[str, Any]:
        """Return what the report keeps."""
        return {"backend": self._model.describe(), "seconds_to_load": round(self._loaded_s, 1)}

    def first_chunk(self, chunk: FirstChunk) -> np.ndarray[Any, Any]:
        """Return the latents after one denoising step from one given frame."""
        self._chunk = chunk
        with self._model.session(**chunk.session_arguments()) as session:
            return chunk.run(session)

    def time(self, name: str, count: int) -> dict[str, list[float]]:
        """Make one chunk of ``count`` denoising steps; the device's milliseconds, and the host's per step."""
        timings = self._session(count).step().timings
        found = {"ms": list(timings.denoise_ms), "fill_ms": [timings.fill_ms], "total_ms": [timings.total_ms]}
        if getattr(timings, "enqueue_us", None):
            found["enqueue_us"] = list(timings.enqueue_us)
        return found

    def _session(self, steps: int) -> Any:
        """Return the session of that many steps, its cache full; there is never more than one."""
        if steps not in self._sessions:
            for session in self._sessions.values():
                session.close()
            g = self.bundle.manifest.geometry
            session = self._model.session(**self._chunk.session_arguments(steps))
            session.start(np.random.default_rng(0).standard_normal((g.slots, *g.latent_shape), dtype=np.float32))
            for _ in range(WARMUP_CHUNKS):
                session.step()
            self._sessions = {steps: session}
        return self._sessions[steps]
