"""Other graphs run beside a reference, on the reference's own cache: the error of a step, without what accumulates."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...bundle import FP8, INT8, Bundle, Precision
from ...hosts.onnxruntime import open_onnxruntime
from ..graph.cache_scales import CacheScales
from ..observe.instrument import open_session

__all__ = ["Shadow", "shadow_of_bundle"]

Array = npt.NDArray[Any]
_STATE = ("latent", "history", "step")
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(float8e4m3fn)": np.uint8,
    "tensor(int32)": np.int32,
}


class Shadow:
    """A fill and a denoise graph that follow a reference's calls.

    A chunk begins with the reference's noise and goes through all denoising steps on its own; cache, context and all
    else are the reference's at every step. A fill is done on what the reference's fill reads.

    Attributes:
        cache_error: Squared error and squared norm of K and V of every fill so far.
    """

    def __init__(self, sessions: Mapping[str, Any], cache: Mapping[str, CacheScales]) -> None:
        """Take loaded graphs.

        Args:
            sessions: ONNX Runtime's, by stage.
            cache: How the graphs store their cache; empty for floating point.
        """
        self._sessions = dict(sessions)
        self._types = {
            stage: {value.name: _TYPES[value.type] for value in session.get_inputs()}
            for stage, session in self._sessions.items()
        }
        self._cache = cache
        self._state: dict[str, Array] = {}
        self._reference: Array = np.empty(0)
        self._began: Array = np.zeros(0, bool)
        self.cache_error: list[tuple[float, float]] = []

    def latent_beside(self, latents: Array) -> Array:
        """Return what the denoising has come to in the row in which the reference came to ``latents``, [T, c, h, w]."""
        # A row at rest may still hold an earlier session's chunk: only those that began one are asked.
        row = next(row for row in np.flatnonzero(self._began) if np.array_equal(self._reference[row], latents))
        latent: Array = self._state["latent"][row].copy()
        return latent

    def follow(self, stage: str, tensors: Mapping[str, Array]) -> None:
        """Run on the inputs of one of the reference's runs; a tap."""
        if stage not in self._sessions:
            return
        if stage == "denoise":
            self._begin_rows(tensors)
        own = self._state if stage == "denoise" else {}
        feeds = {
            name: own[name] if name in own else self._input(name, kind, tensors)
            for name, kind in self._types[stage].items()
        }
        names = [value.name for value in self._sessions[stage].get_outputs()]
        found = dict(zip(names, self._sessions[stage].run(names, feeds), strict=True))
        if stage == "denoise":
            self._state = {name: found[f"next_{name}"] for name in _STATE}
            self._reference = tensors["next_latent"].copy()
        else:
            self._compare_cache(found, tensors)

    def _begin_rows(self, tensors: Mapping[str, Array]) -> None:
        """Take over what the reference starts a chunk from."""
        begins = tensors["step"] == 0
        if begins.any():
            self._began = begins
        for name in _STATE:
            if name not in self._state:
                self._state[name] = tensors[name].copy()
            self._state[name][begins] = tensors[name][begins]

    def _input(self, name: str, kind: Any, tensors: Mapping[str, Array]) -> Any:
        value = tensors[name]
        stored = self._cache.get(name.removeprefix("past_")) if name.startswith("past_") else None
        if stored is None:
            return value if value.dtype == kind else value.astype(kind)
        codes = stored.kind.encode(value.astype(np.float32) * self._factors(stored, value) / stored.scale)
        return codes if stored.format == INT8 else _as_float8(codes, stored.kind.onnx_type)

    def _compare_cache(self, found: Mapping[str, Array], tensors: Mapping[str, Array]) -> None:
        error = norm = 0.0
        for name, made in found.items():
            if not name.startswith("present_"):
                continue
            wanted = tensors[name].astype(np.float64)
            stored = self._cache.get(name.removeprefix("present_"))
            values = made if stored is None else stored.kind.decode(made) * stored.scale / self._factors(stored, made)
            error += float(np.square(values - wanted).sum())
            norm += float(np.square(wanted).sum())
        self.cache_error.append((error, norm))

    @staticmethod
    def _factors(stored: CacheScales, like: Array) -> Array:
        """Return the factor of every head and channel, to multiply [B, S·H, n, d] with."""
        size = like.shape[-1]
        heads = stored.factors.reshape(-1, size)
        return np.tile(heads, (like.shape[1] // len(heads), 1))[None, :, None]


def _as_float8(codes: Array, onnx_type: int) -> Any:
    """Return bytes as what ONNX Runtime takes for FP8; of numpy's types it knows none that is."""
    return _onnxruntime().OrtValue.ortvalue_from_numpy_with_onnx_type(codes, onnx_type)


@functools.cache
def _onnxruntime() -> Any:
    return open_onnxruntime("calibrating", "calibrate")


def shadow_of_bundle(
    bundle: Bundle, precision: Precision, cache: Mapping[str, CacheScales], *, threads: int | None = None
) -> Shadow:
    """Load the graphs of a precision as a shadow."""
    graphs = bundle.manifest.graphs[precision]
    sessions = {
        stage: open_session(Path(bundle.locate(graph.file)), threads=threads, fused=graph.quantised != FP8)
        for stage, graph in graphs.items()
        if stage in ("fill", "denoise")
    }
    return Shadow(sessions, cache)
