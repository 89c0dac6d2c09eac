"""A lane: one cache slab and one set of tensors for R requests, allocated once and bound by address once.

Slots never move. Denoising reads the slab in place; a cache fill writes to the staging buffer, and at most two pitched
copies bring it into the slab.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ...bundle import Geometry, Graph, TensorSpec
from ...errors import SessionError
from .._core import Device, Memory, Ring
from ..backends.backend import Backend, Call, Program
from ..cache.lane_cache import LaneCache, lane_cache_nbytes
from ..cache.window import Window
from ..device.arrays import Array, DeviceArray, TensorBlock
from ..device.memory_limits import require_memory
from ..device.step_trial import StepTrial
from ..device.stepper import (
    EagerStepper,
    ReplayStepper,
    StepTimes,
    capture,
)

__all__ = ["FillTimes", "Lane"]

# What a denoising step hands on to the next one.
_STATE = ("latent", "step", "history")


class _Closable(Protocol):
    def close(self) -> None: ...


@dataclass(frozen=True)
class FillTimes:
    """Milliseconds of a cache fill and of copying what it computed into the slots, on the device's clock."""

    fill_ms: float
    scatter_ms: float


class Lane:
    """What runs: a cache slab [L, 2, B, S·H, K·d], its staging buffer, and the tensors of both graphs.

    On a GPU a lane is one stream, one scratch memory, one execution context per graph and one captured denoising step,
    which stays valid from the first chunk to the last.

    Nothing of it can be set.
    """

    __slots__ = (
        "_cache",
        "_denoise_call",
        "_device",
        "_fill",
        "_fill_calls",
        "_free",
        "_geometry",
        "_graphs_id",
        "_inputs",
        "_lock",
        "_marks",
        "_next",
        "_owned",
        "_scratch",
        "_state",
        "_stepper",
        "_steps",
    )

    def __init__(
        self,
        backend: Backend,
        geometry: Geometry,
        graphs: Mapping[str, Graph],
        programs: Mapping[str, Program],
        *,
        cuda_graph: bool = True,
        graphs_id: tuple[str, str] = ("", ""),
    ) -> None:
        """Allocate everything, bind it, and capture a denoising step where the backend can.

        Args:
            backend: Opens the queue.
            geometry: Every size.
            graphs: Rows of model.json of "fill" and "denoise".
            programs: The same, loaded.
            cuda_graph: Whether steps are captured and replayed, where that can be.
            graphs_id: Precision and hash of the graphs, for snapshots.

        Raises:
            DeviceError: The device has not enough memory, or a call failed. Nothing stays allocated.
            BackendError: A captured step computes something else than an eager one.
        """
        self._geometry = geometry
        self._graphs_id = graphs_id
        self._lock = threading.RLock()
        self._device = backend.open_device()
        if self.device.is_host:  # a GPU's driver refuses what does not fit, and knows what is shared
            _check_memory(self.device, geometry, graphs)
        self._free = list(range(geometry.requests))
        self._owned: list[_Closable] = []
        try:
            self._allocate(graphs)
            self._bind(programs)
            replays = cuda_graph and not self.device.is_host and programs["denoise"].capturable
            self._stepper = self._make_stepper(replays)
        except BaseException:
            self._release(ignore_failures=True)
            raise

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Hold the lock of an open lane."""
        with self.lock:
            self._check_open()
            yield

    def _check_open(self) -> None:
        if not self._owned:
            raise RuntimeError("the lane is closed, with the model that it belonged to; load the model again")

    @property
    def geometry(self) -> Geometry:
        """Every size."""
        return self._geometry

    @property
    def device(self) -> Device:
        """The queue that everything runs on."""
        return self._device

    @property
    def cache(self) -> LaneCache:
        """K and V of all requests."""
        return self._cache

    @property
    def graphs_id(self) -> tuple[str, str]:
        """Precision and hash of the graphs."""
        return self._graphs_id

    @property
    def lock(self) -> threading.RLock:
        """Held while a graph of this lane runs or its tensors change."""
        return self._lock

    @property
    def cache_nbytes(self) -> int:
        """Bytes of the KV cache: 2·L·K·B·S·C elements."""
        return self.cache.nbytes

    @property
    def replays(self) -> bool:
        """Whether denoising steps are replays of a captured CUDA graph."""
        return isinstance(self._stepper, ReplayStepper)

    def lease(self) -> int | None:
        """Lease a request slot, to be cleared before it is used; None where all are taken.

        Does not wait for what the lane is running, nor does :meth:`release`: a list's calls are atomic.
        """
        self._check_open()
        try:
            request = self._free[0]
        except IndexError:
            return None
        del self._free[0]  # not pop(0): a signal is handled after a call, before its result is kept
        return request

    def release(self, request: int) -> None:
        """Give a request slot back."""
        self._free.append(request)

    def clear(self, request: int) -> None:
        """Zero a request's cache, context and latent: invisible slots hold zeros, because 0 × NaN is NaN."""
        with self._working():
            self.cache.clear(request)
            for name in ("latent", "history"):
                self._state[name][request] = 0
                self._state.upload(name, request)

    def set_text(self, request: int, text: Array, mask: Array) -> None:
        """Set a request's text [rows_per_request, tokens, width] and mask [rows_per_request, tokens]."""
        rows = self._rows(request)
        with self._working():
            for name, value in (("text", text), ("text_mask", mask)):
                self._inputs[name][rows] = value
                self._inputs.upload(name, rows.start, self.geometry.rows_per_request)

    def text(self, request: int) -> dict[str, Array]:
        """Return copies of a request's "text" and "text_mask", as set; nothing where the model has none."""
        rows = self._rows(request)
        names = ("text", "text_mask") if self.geometry.text_width else ()
        with self._working():
            return {name: self._inputs[name][rows].copy() for name in names}

    def set_guidance(self, request: int, guidance: float) -> None:
        """Set a request's guidance scale."""
        self._set("guidance", request, np.float32(guidance))

    def set_table(self, request: int, timesteps: Array, coefficients: Array) -> None:
        """Set a request's sampler: timesteps [N] and coefficients [N, 8]."""
        with self._working():
            self._set("timesteps", request, timesteps)
            self._set("coefficients", request, coefficients)

    def noise(self, request: int) -> Array:
        """Return the place of a request's step noise, float32 [N, T, c, h, w], to be written while it rests."""
        place: Array = self._inputs["noise"][request]
        return place

    def begin(self, request: int, window: Window, *, initial: Array, noise_steps: int = 0) -> None:
        """Set a request to the first denoising step of a chunk.

        Args:
            request: Whose.
            window: Where the chunk stands.
            initial: What it starts from, float32 [T, c, h, w]; copied.
            noise_steps: How many steps of :meth:`noise` were written anew.
        """
        with self._working():
            self._set_window(self._inputs, request, window)
            for name, value in (("latent", initial), ("step", 0), ("history", 0)):
                self._state[name][request] = value
                self._state.upload(name, request)
            if noise_steps:
                self._upload_noise(request, noise_steps)

    def denoise(self, steps: int, on_step: Callable[[int], None] | None = None) -> StepTimes:
        """Run the denoise graph ``steps`` times: every request that has begun advances, the others rest.

        Args:
            steps: Denoising steps.
            on_step: Called after each with the number done; what it raises ends the loop.

        Raises:
            DeviceError: A run failed.
        """
        with self._working():
            return self._stepper.run(steps, on_step)

    def latent(self, request: int) -> Array:
        """Return a copy of a request's latent, float32 [T, c, h, w]."""
        return self._read_state("latent", request)

    def history(self, request: int) -> Array:
        """Return a copy of a request's last estimate of the clean latent, float32 [T, c, h, w]."""
        return self._read_state("history", request)

    def device_latent(self, request: int) -> DeviceArray:
        """Return a request's latent where it lies, [T, c, h, w]; written again by the next chunk."""
        return self._state.device_array("latent", request)

    def fill(
        self,
        request: int,
        ring: Ring,
        latent: Array,
        window: Window,
        context_index: Array,
        *,
        keep_context: bool,
        stage: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
        before: Callable[[], None] = lambda: None,
    ) -> FillTimes:
        """Compute K and V of clean latent frames [n, c, h, w], 1 <= n <= T, and copy them into the request's slots.

        Args:
            request: Whose cache it is.
            ring: Where its frames go: one copy, or two where the ring wraps. Not advanced.
            latent: Clean latent frames; copied.
            window: Where they stand.
            context_index: Which of them become the cross-frame context, int32 [P].
            keep_context: Whether the request keeps the context it has.
            stage: Entered with "fill" and "scatter" while the host does each; on a GPU it enqueues them only.
            before: Enqueues what must see the cache as it was.

        Raises:
            DeviceError: A call failed.
        """
        with self._working():
            try:
                self._set_fill_inputs(request, latent, window, context_index)
                before()
                with stage("fill"):
                    self._marks.record(0)
                    self._fill_calls[request, keep_context].enqueue()
                    self._marks.record(1)
                with stage("scatter"):
                    self.cache.scatter(request, ring, len(latent))
                    self._marks.record(2)
                # When this has passed, the mirrors of the inputs are free to be written again.
                self._marks.wait(2)
            except BaseException:
                self.device.synchronize()
                raise
            return FillTimes(self._marks.elapsed_ms(0, 1), self._marks.elapsed_ms(1, 2))

    def close(self) -> None:
        """Free all memory. No session may use the lane any more. Closing twice is allowed.

        Raises:
            SessionError: A request is still leased.
            DeviceError: A call failed; everything was given back all the same.
        """
        with self.lock:
            if len(self._free) < self.geometry.requests:
                raise SessionError("a lane with leased requests cannot be closed; close its sessions first")
            self._fill_calls.clear()
            self._release(ignore_failures=False)

    def _release(self, *, ignore_failures: bool) -> None:
        """Close what is owned, the youngest first, whatever fails; raise the first failure at the end."""
        first: Exception | None = None
        while self._owned:
            try:
                self._owned.pop().close()
            except Exception as error:
                first = first or error
        if first is not None and not ignore_failures:
            raise first

    def _own(self, thing: _Closable) -> None:
        self._owned.append(thing)

    def _allocate(self, graphs: Mapping[str, Graph]) -> None:
        self._cache = LaneCache(self.device, self.geometry, graphs)
        self._own(self.cache)
        small = [spec for spec in graphs["denoise"].inputs if "." not in spec.name]
        state = [_spec(tuple(small), name) for name in _STATE]
        self._inputs = self._allocate_tensors([spec for spec in small if spec.name not in _STATE])
        self._state = self._allocate_tensors(state)
        # Laid out as the state is, so that one copy hands everything on.
        self._next = self._allocate_tensors([replace(spec, name=f"next_{spec.name}") for spec in state])
        self._fill = self._allocate_tensors([spec for spec in graphs["fill"].inputs if "." not in spec.name])
        self._steps = self.device.events(self.geometry.max_steps + 1)
        self._own(self._steps)
        self._marks = self.device.events(3)
        self._own(self._marks)

    def _allocate_tensors(self, specs: list[TensorSpec]) -> TensorBlock:
        block = TensorBlock(self.device, specs)
        self._own(block)
        return block

    def _bind(self, programs: Mapping[str, Program]) -> None:
        """Bind the calls of both graphs. They share their scratch: one queue runs them one after the other."""
        scratch_nbytes = max(program.scratch_nbytes for program in programs.values())
        self._scratch: Memory | None = self.device.allocate(scratch_nbytes) if scratch_nbytes else None
        if self._scratch is not None:
            self._own(self._scratch)
        self._denoise_call = self._bind_call(programs["denoise"], self._denoise_addresses())
        keeps = (False, True) if self.geometry.context == "first" else (False,)
        self._fill_calls: dict[tuple[int, bool], Call] = {
            (request, keep): self._bind_call(
                programs["fill"], {**self._fill.addresses(), **self.cache.fill_addresses(request, keep)}
            )
            for request in range(self.geometry.requests)
            for keep in keeps
        }

    def _bind_call(self, program: Program, addresses: Mapping[str, int]) -> Call:
        scratch = self._scratch.address if self._scratch is not None and program.scratch_nbytes else 0
        call = program.bind(self.device, addresses, scratch)
        self._own(call)
        return call

    def _denoise_addresses(self) -> dict[str, int]:
        return {
            **self._inputs.addresses(),
            **self._state.addresses(),
            **self._next.addresses(),
            **self.cache.denoise_addresses(),
        }

    def _make_stepper(self, replays: bool) -> EagerStepper | ReplayStepper:
        eager = EagerStepper(self.device, self._steps, self._enqueue_step)
        if not replays:
            self._own(eager)
            return eager
        trial = StepTrial(self._inputs, self._state)
        # The first run is outside the capture: a context may allocate and set itself up in it.
        wanted = trial.run(eager)
        stepper = ReplayStepper(self.device, self._steps, capture(self.device, self._enqueue_step))
        self._own(stepper)
        trial.check(wanted, trial.run(stepper))
        trial.clear()
        self.device.synchronize()
        return stepper

    def _enqueue_step(self) -> None:
        """Put one denoising step on the queue, and the copy that makes its results the next one's inputs."""
        self._denoise_call.enqueue()
        self.device.copy(self._state.address, self._next.address, self._state.nbytes)

    def _set(self, name: str, request: int, value: Array | np.float32) -> None:
        with self._working():
            self._inputs[name][request] = value
            self._inputs.upload(name, request)

    def _set_window(self, tensors: TensorBlock, row: int, window: Window) -> None:
        for name in ("positions", "slot_valid", "key_positions"):
            if name in tensors:
                tensors[name][row] = getattr(window, name)
                tensors.upload(name, row)

    def _set_fill_inputs(self, request: int, latent: Array, window: Window, context_index: Array) -> None:
        self._fill["latent"][0, : len(latent)] = latent
        self._fill["latent"][0, len(latent) :] = 0
        self._fill.upload("latent")
        self._set_window(self._fill, 0, window)
        if self.geometry.context is not None:
            self._fill["context_index"][0] = context_index
            self._fill.upload("context_index")
        if self.geometry.text_width:
            for name in ("text", "text_mask"):
                self._fill[name][:] = self._inputs[name][self._rows(request)]
                self._fill.upload(name)

    def _upload_noise(self, request: int, steps: int) -> None:
        place = self._inputs["noise"][request]
        per_step = place[0].nbytes
        if not self.device.is_host:
            there = self._inputs.addresses()["noise"] + request * place.nbytes
            self.device.upload(there, place.ctypes.data, steps * per_step)

    def _read_state(self, name: str, request: int) -> Array:
        with self._working():
            self._state.download(name, request)
            copied: Array = self._state[name][request].copy()
            return copied

    def _rows(self, request: int) -> slice:
        group = self.geometry.rows_per_request
        return slice(request * group, (request + 1) * group)


def _check_memory(device: Device, geometry: Geometry, graphs: Mapping[str, Graph]) -> None:
    """Compare the cache, which is nearly all that a lane allocates, with the memory that is there."""
    remedy = "close sessions or other programs, or export again with fewer --slots or --requests"
    require_memory(device, lane_cache_nbytes(geometry, graphs), "the KV cache of a lane", remedy)


def _spec(specs: tuple[TensorSpec, ...], name: str) -> TensorSpec:
    return next(spec for spec in specs if spec.name == name)
