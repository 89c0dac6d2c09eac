"""The full-size model's denoising step in TensorRT for RTX, as a contender."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..checks.device_clock import time_each
from ..full_size.chunk import FirstChunk
from ..running.record import Missing
from ..running.settings import Settings
from .check import plan_path
from .engine import Engine, Refused
from .module import Rtx, import_rtx

__all__ = ["RtxSteps"]

WARMUP = 3
_NAME = "TensorRT for RTX"


class RtxSteps:
    """The contender: runs of the denoise plan, enqueued and as a CUDA graph.

    Attributes:
        runs: By name.
        bundle: What the plans were built from.
    """

    def __init__(self, folder: Path, settings: Settings, depth: int) -> None:
        from vdmrt.bundle import open_bundle

        rtx = import_rtx()
        self.bundle, self._device = open_bundle(folder), settings.device
        self.notes: dict[str, Any] = {"tensorrt_rtx": rtx.trt.__version__}
        self._denoise = _load(rtx, plan_path(settings, depth, "denoise"), settings.device)
        self._fill: Engine | None = None
        try:
            self._fill = _load(rtx, plan_path(settings, depth, "fill"), settings.device)
        except Missing as error:  # it is needed for the comparison alone
            self.notes["fill"] = f"no first chunk: {error}"
        self.runs: dict[str, Callable[[], Any]] = {_NAME: self._denoise.run}
        if settings.device != "cpu":
            self._add_captured()

    def _add_captured(self) -> None:
        try:
            self.runs[f"{_NAME}, CUDA graph"] = self._denoise.captured()
        except Exception as error:  # the enqueued run is kept
            self.notes[f"{_NAME}, CUDA graph"] = f"failed: {type(error).__name__}: {error}"[:1000]

    def ready(self) -> dict[str, Any]:
        """Return what the report keeps."""
        return self.notes

    def time(self, name: str, count: int) -> dict[str, list[float]]:
        """Return the milliseconds of ``count`` runs."""
        return {"ms": time_each(self.runs[name], count, self._device)}

    def first_chunk(self, chunk: FirstChunk) -> np.ndarray[Any, Any] | None:
        """Return the latents after one denoising step from one given frame, as the runtime makes them.

        None without the fill plan.
        """
        self._denoise.set(chunk.denoise_inputs())
        if self._fill is None:
            return None
        self._fill.set(chunk.fill_inputs())
        self._fill.run()
        for name in self._fill.outputs:
            made = self._fill.tensors[name]
            if name.startswith("present_"):
                self._denoise.tensors[name.replace("present_", "past_")][:, :, :1] = made[:, :, :1]
            else:
                self._denoise.tensors[name].copy_(made)
        self._denoise.run()
        found: np.ndarray[Any, Any] = self._denoise.get("next_latent")[0]
        return found


def _load(rtx: Rtx, path: Path, device: str) -> Engine:
    if not path.is_file():
        raise Missing(f"no plan {path}; run the stage that builds it")
    try:
        return Engine(rtx, path.read_bytes(), device)
    except Refused as error:
        raise Missing(f"TensorRT for RTX refuses {path.name}: {error}") from error
