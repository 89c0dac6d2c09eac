"""A lane: one cache slab and one set of tensors for R requests, allocated once and bound by address once.

Slots never move. Denoising reads the slab in place; a cache fill writes to the staging buffer, and at most two pitched
copies bring it into the slab.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from ..bundle import Geometry, Graph, TensorSpec
from ..errors import SessionError
from ._core import Ring
from .arrays import Array, HostArray, allocate_array
from .backend import Backend, Call, Program
from .window import Window

__all__ = ["Lane"]


class Lane:
    """What runs: a cache slab [L, 2, B, S·H, K, d], its staging buffer, and the tensors of both graphs.

    Attributes:
        geometry: Every size.
        lock: Held while a graph of this lane runs or its tensors change.
    """

    def __init__(
        self,
        backend: Backend,
        geometry: Geometry,
        graphs: Mapping[str, Graph],
        programs: Mapping[str, Program],
    ) -> None:
        """Allocate everything and bind it.

        Raises:
            DeviceError: The device has not enough memory.
        """
        self.geometry = geometry
        self.lock = threading.RLock()
        self._device = backend.device
        self._free = list(range(geometry.requests))
        self._arrays: list[HostArray] = []
        g = geometry
        self._cache_type = _spec(graphs["fill"].outputs, "present_k.0").dtype
        slab = (g.layers, 2, g.rows, g.tokens_per_frame * g.heads)
        staged = (g.layers, 2, g.rows_per_request, g.tokens_per_frame * g.heads)
        # A quantised cache is INT8, and the cross-frame context beside it stays floating point.
        context = [spec.dtype for spec in graphs["fill"].outputs if spec.name == "context_k.0"]
        self._context_type = context[0] if context else self._cache_type
        self._slab = self._allocate((*slab, g.slots, g.head_size), self._cache_type)
        self._staging = self._allocate((*staged, g.chunk_frames, g.head_size), self._cache_type)
        self._context = self._allocate_context(g.rows)
        # Where a fill's context goes when the session keeps an earlier one.
        self._spare_context = self._allocate_context(g.rows_per_request)
        self._fill = _Tensors(self._allocate, graphs["fill"].inputs)
        self._denoise = _Tensors(self._allocate, graphs["denoise"].inputs)
        self._next = _Tensors(self._allocate, graphs["denoise"].outputs)
        self._phase = 0
        self._denoise_calls = self._bind_denoise(programs["denoise"])
        self._fill_program = programs["fill"]
        self._fill_calls: dict[tuple[int, bool], Call] = {}

    @property
    def cache_nbytes(self) -> int:
        """Bytes of the KV cache: 2·L·K·B·S·C elements."""
        return self._slab.memory.nbytes

    def lease(self) -> int | None:
        """Lease a request slot, its cache empty; None where all are taken."""
        with self.lock:
            if not self._free:
                return None
            request = self._free.pop(0)
            self.clear(request)
            return request

    def release(self, request: int) -> None:
        """Give a request slot back."""
        with self.lock:
            self.clear(request)
            self._free.append(request)

    def clear(self, request: int) -> None:
        """Zero a request's cache, context and latent: invisible slots hold zeros, because 0 × NaN is NaN."""
        with self.lock:
            rows = self._rows(request)
            plane, row = self._slab.array[0, 0].nbytes, self._slab.array[0, 0, 0].nbytes
            self._device.zero_2d(
                self._slab.address + rows.start * row,
                width=self.geometry.rows_per_request * row,
                height=2 * self.geometry.layers,
                pitch=plane,
            )
            if self._context is not None:
                self._context.array[:, :, rows] = 0
            for tensors in (self._denoise, self._next):
                for name in ("latent", "history"):
                    tensors.state(name)[request] = 0

    def set_text(self, request: int, text: Array, mask: Array) -> None:
        """Set a request's text [rows_per_request, tokens, width] and mask [rows_per_request, tokens]."""
        with self.lock:
            self._denoise["text"][self._rows(request)] = text
            self._denoise["text_mask"][self._rows(request)] = mask

    def set_guidance(self, request: int, guidance: float) -> None:
        """Set a request's guidance scale."""
        self._denoise["guidance"][request] = guidance

    def set_table(self, request: int, timesteps: Array, coefficients: Array) -> None:
        """Set a request's sampler: timesteps [N] and coefficients [N, 8]."""
        with self.lock:
            self._denoise["timesteps"][request] = timesteps
            self._denoise["coefficients"][request] = coefficients

    def noise(self, request: int) -> Array:
        """Return the place of a request's step noise, float32 [N, T, c, h, w], to be written while it rests."""
        place: Array = self._denoise["noise"][request]
        return place

    def begin(self, request: int, window: Window) -> Array:
        """Set a request to the first denoising step of a chunk.

        Returns:
            The place of its initial noise, float32 [T, c, h, w].
        """
        with self.lock:
            _set_window(self._denoise, request, window)
            current = (self._denoise, self._next)[self._phase]
            current.state("step")[request] = 0
            current.state("history")[request] = 0
            latent: Array = current.state("latent")[request]
            return latent

    def denoise(self, steps: int, on_step: Callable[[int], None]) -> list[float]:
        """Run the denoise graph ``steps`` times: every request that has begun advances, the others rest.

        Args:
            steps: Denoising steps.
            on_step: Called after each with the number done; what it raises ends the loop.

        Returns:
            Milliseconds of each run.

        Raises:
            DeviceError: A run failed.
        """
        times = []
        with self.lock:
            for done in range(1, steps + 1):
                started = time.perf_counter()
                self._denoise_calls[self._phase].enqueue()
                times.append((time.perf_counter() - started) * 1e3)
                self._phase ^= 1
                on_step(done)
        return times

    def latent(self, request: int) -> Array:
        """Return a copy of a request's latent, float32 [T, c, h, w]."""
        return self._state("latent", request)

    def history(self, request: int) -> Array:
        """Return a copy of a request's last estimate of the clean latent, float32 [T, c, h, w]."""
        return self._state("history", request)

    def fill(self, request: int, latent: Array, window: Window, context_index: Array, *, keep_context: bool) -> float:
        """Compute K and V of clean latent frames [n, c, h, w] into the staging buffer, 1 <= n <= T.

        Args:
            request: Whose cache is read.
            latent: Clean latent frames; copied.
            window: Where they stand.
            context_index: Which of them become the cross-frame context, int32 [P].
            keep_context: Whether the request keeps the context it has.

        Returns:
            Milliseconds of the run.

        Raises:
            DeviceError: The run failed.
        """
        with self.lock:
            self._fill["latent"][0, : len(latent)] = latent
            self._fill["latent"][0, len(latent) :] = 0
            _set_window(self._fill, 0, window)
            if self.geometry.context is not None:
                self._fill["context_index"][0] = context_index
            if self.geometry.text_width:
                for name in ("text", "text_mask"):
                    self._fill[name][:] = self._denoise[name][self._rows(request)]
            started = time.perf_counter()
            self._fill_call(request, keep_context).enqueue()
            return (time.perf_counter() - started) * 1e3

    def scatter(self, request: int, ring: Ring, count: int) -> float:
        """Copy the first ``count`` staged latent frames into the request's slots: one copy, or two where it wraps.

        Returns:
            Milliseconds.
        """
        g = self.geometry
        frame = self._slab.array[0, 0, 0, 0, 0].nbytes
        lines = g.tokens_per_frame * g.heads
        first_row = self._rows(request).start * lines * g.slots * frame
        started = time.perf_counter()
        with self.lock:
            for slot, first, length in ring.segments(count):
                self._device.copy_3d(
                    self._slab.address + first_row + slot * frame,
                    self._staging.address + first * frame,
                    width=length * frame,
                    height=g.rows_per_request * lines,
                    depth=2 * g.layers,
                    destination_pitch=g.slots * frame,
                    destination_height=g.rows * lines,
                    source_pitch=g.chunk_frames * frame,
                    source_height=g.rows_per_request * lines,
                )
        return (time.perf_counter() - started) * 1e3

    def cache(self, request: int) -> Array:
        """Return a view of a request's cache, [L, 2, rows_per_request, S·H, K, d]; valid until the lane is closed."""
        return self._slab.array[:, :, self._rows(request)]

    def context(self, request: int) -> Array:
        """Return a view of a request's cross-frame context, [L, 2, rows_per_request, H, P·S, d]; valid like the cache.

        Raises:
            SessionError: The model has none.
        """
        if self._context is None:
            raise SessionError("the model has no cross-frame attention, so there is no context")
        return self._context.array[:, :, self._rows(request)]

    def close(self) -> None:
        """Free all memory. No session may use the lane any more."""
        with self.lock:
            if len(self._free) < self.geometry.requests:
                raise SessionError("a lane with leased requests cannot be closed; close its sessions first")
            self._denoise_calls.clear()
            self._fill_calls.clear()
            for array in self._arrays:
                array.memory.close()

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> HostArray:
        array = allocate_array(self._device, shape, dtype)
        self._arrays.append(array)
        return array

    def _allocate_context(self, rows: int) -> HostArray | None:
        g = self.geometry
        if g.context is None:
            return None
        shape = (g.layers, 2, rows, g.heads, g.context_frames * g.tokens_per_frame, g.head_size)
        return self._allocate(shape, self._context_type)

    def _state(self, name: str, request: int) -> Array:
        with self.lock:
            copied: Array = (self._denoise, self._next)[self._phase].state(name)[request].copy()
            return copied

    def _rows(self, request: int) -> slice:
        group = self.geometry.rows_per_request
        return slice(request * group, (request + 1) * group)

    def _bind_denoise(self, program: Program) -> list[Call]:
        """Bind the graph twice, so that each run reads what the one before wrote and nothing is copied."""
        shared = {**self._denoise.addresses(), **self._layered("past", self._slab, 0)}
        shared |= self._layered("context", self._context, 0)
        there, back = self._denoise.states(), self._next.states()
        return [
            program.bind({**shared, **source, **{f"next_{name}": address for name, address in target.items()}})
            for source, target in ((there, back), (back, there))
        ]

    def _fill_call(self, request: int, keep_context: bool) -> Call:
        key = (request, keep_context)
        if key not in self._fill_calls:
            row = self._rows(request).start
            addresses = {**self._fill.addresses(), **self._layered("past", self._slab, row)}
            addresses |= self._layered("present", self._staging, 0)
            if keep_context:
                addresses |= self._layered("context", self._spare_context, 0)
            else:
                addresses |= self._layered("context", self._context, row)
            self._fill_calls[key] = self._fill_program.bind(addresses)
        return self._fill_calls[key]

    def _layered(self, stem: str, block: HostArray | None, row: int) -> dict[str, int]:
        """Return the addresses of K and V of every layer from ``row`` on in a block [L, 2, rows, ...]."""
        if block is None:
            return {}
        planes = block.array
        return {
            f"{stem}_{part}.{layer}": block.address
            + (layer * 2 + i) * planes[0, 0].nbytes
            + row * planes[0, 0, 0].nbytes
            for layer in range(len(planes))
            for i, part in enumerate("kv")
        }


class _Tensors:
    """The small tensors of one graph: everything but the cache and the context."""

    def __init__(self, allocate: Callable[[tuple[int, ...], str], HostArray], specs: tuple[TensorSpec, ...]) -> None:
        small = (spec for spec in specs if "." not in spec.name)
        self._arrays = {spec.name: allocate(spec.shape, spec.dtype) for spec in small}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name].array

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def state(self, name: str) -> Array:
        """Return a tensor that the denoise graph hands on, whichever side this is."""
        return self._arrays[name if name in self._arrays else f"next_{name}"].array

    def states(self) -> dict[str, int]:
        """Return the addresses of what is handed on, by the input's name."""
        handed = ("latent", "step", "history")
        return {name: self._arrays[name if name in self._arrays else f"next_{name}"].address for name in handed}

    def addresses(self) -> dict[str, int]:
        """Return the address of every tensor by name."""
        return {name: array.address for name, array in self._arrays.items()}


def _set_window(tensors: _Tensors, request: int, window: Window) -> None:
    tensors["positions"][request] = window.positions
    tensors["slot_valid"][request] = window.slot_valid
    if "key_positions" in tensors:
        tensors["key_positions"][request] = window.key_positions


def _spec(specs: tuple[TensorSpec, ...], name: str) -> TensorSpec:
    return next(spec for spec in specs if spec.name == name)
