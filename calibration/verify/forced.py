"""Teacher-forced runs: every chunk is made from a reference session's cache, so that errors do not accumulate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import Stage
from ...runtime.session.snapshot import SnapshotForm

if TYPE_CHECKING:
    from ...runtime.session.chunk import Chunk
    from ...runtime.session.model import Model
    from ...runtime.session.session import Session
    from ...runtime.session.snapshot import Snapshot
    from ..graph.cache_scales import CacheScales

__all__ = ["TeacherForced"]

Array = npt.NDArray[Any]
Latents = npt.NDArray[np.float32]


class TeacherForced:
    """Session that follows a reference session, of any backend and device; both need the same seed and settings."""

    def __init__(self, model: Model, session: Session, scales: Mapping[str, CacheScales]) -> None:
        """Wrap a session.

        Args:
            model: Model of the session.
            session: Session to use exclusively; the caller closes it.
            scales: Scales of the model's cache, by "k.0" and so on; empty for floating point.
        """
        manifest = model.manifest
        graph, digest = model.bundle.graphs(model.precision)[Stage.FILL], manifest.graphs_sha256(model.precision)
        self._form = SnapshotForm.of(manifest.geometry, graph, str(model.precision), digest)
        self._session = session
        self._scales = scales

    def make_chunk(self, before: Snapshot) -> Chunk:
        """Generate the chunk that the reference generates from its snapshot ``before``."""
        self._session.adopt(self._translate(before))
        return self._session.step()

    def cache_error(self, before: Snapshot, made: Latents, reference: Session) -> float:
        """Return the relative L2 error of K and V that a cache fill writes.

        Args:
            before: Snapshot of the reference before its chunk.
            made: The reference's chunk, with which the cache is filled.
            reference: The reference's session after the chunk.
        """
        self._session.adopt(self._translate(before))
        self._session.extend(made)
        wanted, frames = reference.cache()
        found, _ = self._session.cache()
        written = np.repeat(np.array(frames) >= before.written, wanted.shape[-2] // len(frames))
        right, made_of_it = (self._decode(one)[..., written, :].astype(np.float64) for one in (wanted, found))
        return float(np.sqrt(np.square(made_of_it - right).sum() / max(np.square(right).sum(), 1e-12)))

    def _translate(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot of the reference, with tensors in the model's storage format."""
        tensors = {
            name: self._encode(value) if name == "cache" else value.astype(self._form.tensors[name][0], copy=False)
            for name, value in snapshot.tensors.items()
        }
        return dataclasses.replace(snapshot, tensors=tensors)

    def _encode(self, cache: Array) -> Array:
        """Return a cache, [L, 2, rows, S·H, K, d] or [L, 2, rows, H, K·S, d], in the model's storage format."""
        dtype = self._form.tensors["cache"][0]
        if not self._scales or cache.dtype == dtype:
            return cache.astype(dtype, copy=False)
        stored: Array = np.empty(cache.shape, dtype)
        for layer, part, one in self._parts():
            values = cache[layer, part].astype(np.float32) * _factors(one, cache) / one.scale
            stored[layer, part] = one.kind.encode(values)
        return stored

    def _decode(self, stored: Array) -> Array:
        """Return a stored cache in floating point."""
        if not self._scales or stored.dtype.kind == "f":
            return stored
        cache: Array = np.empty(stored.shape, np.float32)
        for layer, part, one in self._parts():
            cache[layer, part] = one.kind.decode(stored[layer, part]) * one.scale / _factors(one, stored)
        return cache

    def _parts(self) -> list[tuple[int, int, CacheScales]]:
        """Return the scales with layer and index: 0 for K, 1 for V."""
        named = [(name.split("."), one) for name, one in self._scales.items()]
        return [(int(layer), "kv".index(part), one) for (part, layer), one in named]


def _factors(stored: CacheScales, cache: Array) -> Array:
    """Return the factors by which K or V of a layer is multiplied, by head and channel."""
    heads = stored.factors.reshape(-1, cache.shape[-1])
    return np.tile(heads, (cache.shape[3] // len(heads), 1))[None, :, None]
