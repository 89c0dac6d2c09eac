"""A backend that shows the tensors of every run to a callback, without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...bundle import Stage

if TYPE_CHECKING:
    from ...bundle import TensorSpec
    from ...runtime._core import Device
    from ...runtime.backends.backend import Backend, Call, Program
    from ...runtime.backends.stage_source import StageSource

__all__ = ["Tap", "TappedBackend"]

Array = npt.NDArray[Any]
# Called with "fill" or "denoise", and a view of every input and output by name. The views are the lane's memory and are
# valid during the call only; inputs still contain the values that the run read.
Tap = Callable[[str, Mapping[str, Array]], None]


class TappedBackend:
    """Wrapper of a backend with tensors in host memory that calls a tap after each run.

    Attributes:
        tap: Called after each run of a fill or denoise graph, or None. The only attribute that can be set.
    """

    __slots__ = ("_inner", "tap")

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.tap: Tap | None = None

    @property
    def device_name(self) -> str:
        """The inner backend's device."""
        return self._inner.device_name

    @property
    def name(self) -> str:
        """The inner backend's name."""
        return self._inner.name

    def describe(self) -> str:
        """Describe the inner backend."""
        return self._inner.describe()

    def open_device(self) -> Device:
        """Open the inner backend's queue."""
        return self._inner.open_device()

    def load(self, source: StageSource) -> Program:
        """Load a stage; see :meth:`Backend.load`."""
        program = self._inner.load(source)
        return _TappedProgram(self, program, source) if source.stage in (Stage.FILL, Stage.DENOISE) else program

    def close(self) -> None:
        """Close the inner backend."""
        self._inner.close()


class _TappedProgram:
    def __init__(self, backend: TappedBackend, inner: Program, source: StageSource) -> None:
        self._backend, self._inner, self._source = backend, inner, source

    @property
    def scratch_nbytes(self) -> int:
        """Scratch memory of the inner program in bytes."""
        return self._inner.scratch_nbytes

    @property
    def capturable(self) -> bool:
        """False: replayed graphs would bypass the tap."""
        return False

    def bind(self, device: Device, addresses: Mapping[str, int], scratch: int = 0) -> Call:
        """Bind the inner program, and store the tensors' addresses."""
        call, graph = self._inner.bind(device, addresses, scratch), self._source.graph
        views = {spec.name: _view(spec, addresses[spec.name]) for spec in (*graph.inputs, *graph.outputs)}
        return _TappedCall(self._backend, call, self._source.stage, views)

    def close(self) -> None:
        """Close the inner program."""
        self._inner.close()


class _TappedCall:
    def __init__(self, backend: TappedBackend, inner: Call, stage: str, views: Mapping[str, Array]) -> None:
        self._backend, self._inner, self._stage, self._views = backend, inner, stage, views

    def enqueue(self) -> None:
        """Run once, then call the tap."""
        self._inner.enqueue()
        if self._backend.tap is not None:
            self._backend.tap(self._stage, self._views)

    def close(self) -> None:
        """Close the inner call."""
        self._inner.close()


def _view(spec: TensorSpec, address: int) -> Array:
    buffer: Any = (ctypes.c_char * spec.nbytes).from_address(address)
    view: Array = np.frombuffer(buffer, np.dtype(spec.storage)).reshape(spec.shape)
    return view
