"""Small tensors of both graphs of a lane: all except the KV cache and the cross-frame context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ...bundle import NEXT_STATE, Role, Stage
from ..device.arrays import TensorBlock
from ..device.owned import Owned

if TYPE_CHECKING:
    from ...bundle import Geometry, Graph, TensorSpec
    from .._core import Device
    from ..cache.window import Window
    from ..device.arrays import Array

__all__ = ["LaneTensors"]


class LaneTensors:
    """Tensors in device memory with mirrors on the host. The caller holds the lane's lock.

    Attributes:
        inputs: Inputs of the denoise graph, without the state.
        state: State that each run of the denoise graph reads and updates: latent, step and history.
        fill: Inputs of the fill graph, for one request.
    """

    __slots__ = ("_device", "_next", "_owned", "_rows_per_request", "fill", "inputs", "state")

    def __init__(self, device: Device, geometry: Geometry, graphs: Mapping[str, Graph]) -> None:
        """Allocate all tensors, zeroed.

        Raises:
            DeviceError: The device does not have that much memory. Nothing stays allocated.
        """
        self._device = device
        self._rows_per_request = geometry.rows_per_request
        self._owned = Owned()
        denoise = graphs[Stage.DENOISE]
        state = denoise.with_role(*NEXT_STATE)
        with self._owned.closed_on_error():
            self.inputs = self._allocate(spec for spec in denoise.inputs if spec not in state)
            self.state = self._allocate(state)
            # The same layout as the state's, so that one copy updates all of it.
            self._next = self._allocate(denoise.tensor(NEXT_STATE[spec.role]) for spec in state)
            self.fill = self._allocate(graphs[Stage.FILL].inputs)

    def rows(self, request: int) -> slice:
        """Return the transformer rows of a request."""
        first = request * self._rows_per_request
        return slice(first, first + self._rows_per_request)

    def denoise_addresses(self) -> dict[str, int]:
        """Return the addresses of the denoise graph's small tensors by name."""
        return {**self.inputs.addresses(), **self.state.addresses(), **self._next.addresses()}

    def enqueue_handing_on(self) -> None:
        """Enqueue the copy of a step's results to the inputs of the next."""
        self._device.copy(self.state.address, self._next.address, self.state.nbytes)

    def set_input(self, role: Role, request: int, value: Array | float) -> None:
        """Set a request's row of an input of the denoise graph."""
        self.inputs[role][request] = value
        self.inputs.upload(role, request)

    def set_state(self, request: int, latent: Array | float) -> None:
        """Set a request's latent; reset its step and history to 0."""
        for role in NEXT_STATE:
            if role in self.state:
                self.state[role][request] = latent if role is Role.LATENT else 0
                self.state.upload(role, request)

    def read_state(self, role: Role, request: int) -> Array:
        """Return a copy of a request's row of the state."""
        self.state.download(role, request)
        copied: Array = self.state[role][request].copy()
        return copied

    def set_window(self, tensors: TensorBlock, row: int, window: Window) -> None:
        """Set one row of the graph's tensors of visible slots and positions."""
        for role, value in window.tensors.items():
            if role in tensors:
                tensors[role][row] = value
                tensors.upload(role, row)

    def close(self) -> None:
        """Free the memory. Closing twice is allowed."""
        self._owned.close()

    def _allocate(self, specs: Iterable[TensorSpec]) -> TensorBlock:
        """Allocate the tensors that do not belong to a layer; those of a layer belong to the cache."""
        return self._owned.add(TensorBlock(self._device, [spec for spec in specs if spec.layer is None]))
