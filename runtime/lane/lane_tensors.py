"""The small tensors of both graphs of a lane: all but the KV cache and the cross-frame context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...bundle import Geometry, Graph, TensorSpec
from .._core import Device
from ..cache.window import Window
from ..device.arrays import Array, TensorBlock
from ..device.owned import Owned

__all__ = ["LaneTensors"]

# What a denoising step hands on to the next one.
_STATE = ("latent", "step", "history")


class LaneTensors:
    """Tensors in device memory with mirrors on the host. The caller holds the lane's lock.

    Attributes:
        inputs: Of the denoise graph, but for the state.
        state: What the denoise graph reads and hands on: latent, step and history.
        fill: Inputs of the fill graph, for one request.
    """

    __slots__ = ("_device", "_next", "_owned", "_rows_per_request", "fill", "inputs", "state")

    def __init__(self, device: Device, geometry: Geometry, graphs: Mapping[str, Graph]) -> None:
        """Allocate all of them, all zero.

        Raises:
            DeviceError: The device does not have that much memory. Nothing stays allocated.
        """
        self._device = device
        self._rows_per_request = geometry.rows_per_request
        self._owned = Owned()
        denoise, fill = (_small(graphs[stage]) for stage in ("denoise", "fill"))
        state = [denoise[name] for name in _STATE]
        with self._owned.closed_on_error():
            self.inputs = self._allocate([spec for name, spec in denoise.items() if name not in _STATE])
            self.state = self._allocate(state)
            # Laid out as the state is, so that one copy hands everything on.
            self._next = self._allocate([replace(spec, name=f"next_{spec.name}") for spec in state])
            self.fill = self._allocate(list(fill.values()))

    def rows(self, request: int) -> slice:
        """Return the transformer rows of a request."""
        first = request * self._rows_per_request
        return slice(first, first + self._rows_per_request)

    def denoise_addresses(self) -> dict[str, int]:
        """Return the addresses of the denoise graph's small tensors by name."""
        return {**self.inputs.addresses(), **self.state.addresses(), **self._next.addresses()}

    def enqueue_handing_on(self) -> None:
        """Put the copy on the queue that makes a step's results the next one's inputs."""
        self._device.copy(self.state.address, self._next.address, self.state.nbytes)

    def set_input(self, name: str, request: int, value: Array | float) -> None:
        """Set a request's row of an input of the denoise graph."""
        self.inputs[name][request] = value
        self.inputs.upload(name, request)

    def set_state(self, name: str, request: int, value: Array | float) -> None:
        """Set a request's row of the state."""
        self.state[name][request] = value
        self.state.upload(name, request)

    def read_state(self, name: str, request: int) -> Array:
        """Return a copy of a request's row of the state."""
        self.state.download(name, request)
        copied: Array = self.state[name][request].copy()
        return copied

    def set_window(self, tensors: TensorBlock, row: int, window: Window) -> None:
        """Set a row of what a graph reads about time."""
        for name in ("positions", "slot_valid", "key_positions"):
            if name in tensors:
                tensors[name][row] = getattr(window, name)
                tensors.upload(name, row)

    def close(self) -> None:
        """Free the memory. Closing twice is allowed."""
        self._owned.close()

    def _allocate(self, specs: list[TensorSpec]) -> TensorBlock:
        return self._owned.add(TensorBlock(self._device, specs))


def _small(graph: Graph) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in graph.inputs if "." not in spec.name}
