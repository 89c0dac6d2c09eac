"""A backend that lets one look at the tensors of every run, by address and without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...bundle import Bundle, Graph, Stage, TensorSpec
from ...runtime._core import Device
from ...runtime.backends.backend import (
    Backend,
    Call,
    ExecutionContext,
    Program,
)

__all__ = ["Tap", "TappedBackend"]

Array = npt.NDArray[Any]
# Gets "fill" or "denoise", and a view of every input and output by name. The views are the lane's own memory and are
# valid during the call only; inputs still hold what the run read.
Tap = Callable[[str, Mapping[str, Array]], None]


class TappedBackend:
    """Runs everything on another backend whose tensors lie in host memory.

    Attributes:
        tap: Called after each run of a fill or denoise graph; None for nothing.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.tap: Tap | None = None

    @property
    def device_name(self) -> str:
        """What it runs on."""
        return self._inner.device_name

    @property
    def name(self) -> str:
        """The inner backend's name."""
        return self._inner.name

    def describe(self) -> str:
        """Say what the inner backend is."""
        return self._inner.describe()

    def open_device(self) -> Device:
        """Open the inner backend's queue."""
        return self._inner.open_device()

    def load(self, bundle: Bundle, stage: str, graph: Graph) -> Program:
        """Load a graph of a bundle; see :meth:`Backend.load`."""
        program = self._inner.load(bundle, stage, graph)
        return _TappedProgram(self, program, graph, stage) if stage in (Stage.FILL, Stage.DENOISE) else program

    def close(self) -> None:
        """Close the inner backend."""
        self._inner.close()


class _TappedProgram:
    def __init__(self, backend: TappedBackend, inner: Program, graph: Graph, stage: str) -> None:
        self._backend, self._inner, self._graph, self._stage = backend, inner, graph, stage

    @property
    def scratch_nbytes(self) -> int:
        """The inner program's."""
        return self._inner.scratch_nbytes

    @property
    def capturable(self) -> bool:
        """A captured run would not come by here."""
        return False

    def create_context(self, device: Device, scratch: int) -> ExecutionContext:
        """Make an execution context of the inner program."""
        return _TappedContext(self._backend, self._inner.create_context(device, scratch), self._graph, self._stage)

    def close(self) -> None:
        """Close the inner program."""
        self._inner.close()


class _TappedContext:
    def __init__(self, backend: TappedBackend, inner: ExecutionContext, graph: Graph, stage: str) -> None:
        self._backend, self._inner, self._graph, self._stage = backend, inner, graph, stage

    def bind(self, addresses: Mapping[str, int]) -> Call:
        """Bind, and remember where the tensors lie."""
        call = self._inner.bind(addresses)
        specs = (*self._graph.inputs, *self._graph.outputs)
        views = {spec.name: _view(spec, addresses[spec.name]) for spec in specs}
        return _TappedCall(self._backend, call, self._stage, views)

    def close(self) -> None:
        """Close the inner context."""
        self._inner.close()


class _TappedCall:
    def __init__(self, backend: TappedBackend, inner: Call, stage: str, views: Mapping[str, Array]) -> None:
        self._backend, self._inner, self._stage, self._views = backend, inner, stage, views

    def enqueue(self) -> None:
        """Run once, then let the tap look."""
        self._inner.enqueue()
        if self._backend.tap is not None:
            self._backend.tap(self._stage, self._views)


def _view(spec: TensorSpec, address: int) -> Array:
    buffer: Any = (ctypes.c_char * spec.nbytes).from_address(address)
    view: Array = np.frombuffer(buffer, np.dtype(spec.storage)).reshape(spec.shape)
    return view
